"""How samzoo is run with a fault in it, and how its end is awaited."""

import os
import subprocess
import sys
import time
from pathlib import Path

from cli_helpers import QUICK, WHOLE

HERE = Path(__file__).parent
SMALL = [
    *QUICK,
    "--data.phantom.cases=16",
    "--data.test_fraction=0.4",
    "--data.val_fraction=0.3",
    "--data.batch_size=2",
]
"""6 cases for test and 3 for validation; four steps in an epoch."""
FIT = ["fit", "--config", "sam_med2d_phantom", *SMALL, *WHOLE]
UNTRAINED = ["--config", "sam_phantom", *SMALL, "--zero-shot"]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def faulty(fault, rank, place, *args):
    """Start samzoo with a fault, see faulty.py; in a session of its own, so that what is left of it is found."""
    command = [sys.executable, str(HERE / "faulty.py"), fault, str(rank), place, *map(str, args)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def ended(process, died, seconds=20):
    """Everything that was said, once all processes are gone, which they have to be soon after `died` was there."""
    said, _ = process.communicate(timeout=600)
    last = time.time()
    assert last - died.stat().st_mtime < seconds, said
    while left := in_session(process.pid):
        assert time.time() - last < seconds, (left, said)
        time.sleep(0.2)
    return said


def in_session(session):
    """pids of the processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(number) == session and state != "Z":
            found.append(int(stat.parent.name))
    return [pid for pid in found if pid != os.getpid()]
