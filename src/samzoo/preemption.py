"""A job that Slurm takes back goes into its queue again; the same command then goes on at the last complete epoch.

Lightning's own way is to save in the middle of an epoch and to resume there. But units and prompts are drawn by the
epoch's number and the place in it, which a loader that begins anew counts from 0: only a resume at the start of an
epoch ends with the weights of an undisturbed run. So its saving is left out; at most one epoch is done twice. No
torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from types import FrameType

from samzoo.termination import Terminated

SIGNAL = getattr(signal, "SIGUSR1", None)
"""Sent ahead of the end by `sbatch --signal=SIGUSR1@120`."""
SUBMITIT = "SUBMITIT_EXECUTOR"
"""Set in submitit's jobs. Slurm sends their signal, SIGUSR2, to a cell as well; submitit's own process ends it then."""


def heed_preemption(first: bool) -> None:
    """From now on SIGUSR1 in a job of Slurm hands it back and ends this process as SIGTERM does; else nothing.

    Lightning leaves a handler alone that is there before its own. Where Slurm does not take the job back, it goes on
    for the time that is left.

    Args:
        first: of all processes this one asks Slurm; the others are ended by it, and so is a cell by submitit.
    """
    in_job = "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if SIGNAL is None or not in_job or threading.current_thread() is not threading.main_thread():
        return
    if SUBMITIT in os.environ:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        first = False
    signal.signal(SIGNAL, partial(_hand_back, os.getpid()) if first else signal.SIG_IGN)


def _hand_back(process: int, number: int, frame: FrameType | None) -> None:
    if os.getpid() != process:  # Slurm sends it to all of a job; those that load data have the handler, too
        return
    job = job_id()
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        refused = (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        refused = str(error)
    if refused:
        print(f"samzoo: scontrol requeue {job}: {refused}; going on until the job ends", file=sys.stderr, flush=True)
        return
    print(f"samzoo: job {job} is back in Slurm's queue", file=sys.stderr, flush=True)
    signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm sends it next
    raise Terminated


def job_id() -> str:
    """As scontrol wants it, also of a task of a job array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
