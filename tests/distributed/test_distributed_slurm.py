"""A job that Slurm takes back goes on as if it had never been; the batch script is sound."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from cli_helpers import PHANTOM
from distributed_helpers import FIT, SMALL, faulty

from samzoo.cli import main
from samzoo.cli_slurm import Cell
from samzoo.cli_suite import jobs
from samzoo.leaderboard.suite import read_suite
from samzoo.preemption import heed_preemption
from samzoo.termination import Terminated
from samzoo.whereabouts import FOLDER

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "configs" / "slurm" / "fit.sbatch"
JOB = {
    "SLURM_JOB_ID": "4242",
    "SLURM_JOB_NAME": "fit",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}
SBATCH_OPTIONS = {
    *("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time", "signal", "requeue"),
    *("open-mode", "output", "partition", "account", "qos", "constraint", "exclude"),
}

SUITE = f"cells: {{floor: {{config: box_ellipse_phantom.yaml, fit: false, settings: {json.dumps(SMALL)}}}}}"


@pytest.fixture
def job(work, monkeypatch):
    """A job of a Slurm that notes what it is asked."""
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    command(work, "scontrol", 'echo "$@" >> asked')
    monkeypatch.setenv("PATH", f"{work / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    kept = {n: signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
    yield work
    for number, handler in kept.items():
        signal.signal(number, handler)


def command(work, name, line):
    path = work / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def test_the_first_process_hands_the_job_back_and_ends(job, capsys):
    heed_preemption(first=True)
    with pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert (job / "asked").read_text() == "requeue 4242\n"
    assert "job 4242 is back in Slurm's queue" in capsys.readouterr().err


def test_an_array_job_is_handed_back_by_its_task_and_the_others_wait(job, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4200")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    heed_preemption(first=False)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert not (job / "asked").exists()
    heed_preemption(first=True)
    with pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert (job / "asked").read_text() == "requeue 4200_7\n"


@pytest.mark.parametrize("scontrol", ["echo no requeue here >&2; exit 1", None])
def test_a_job_that_is_not_taken_back_goes_on(job, monkeypatch, capsys, scontrol):
    (job / "bin" / "scontrol").unlink()
    if scontrol:
        command(job, "scontrol", scontrol)
    elif shutil.which("scontrol"):
        pytest.skip("a Slurm is installed here")
    heed_preemption(first=True)
    os.kill(os.getpid(), signal.SIGUSR1)
    said = capsys.readouterr().err
    assert "going on until the job ends" in said and (not scontrol or "no requeue here" in said)


def test_a_cell_of_submitit_leaves_its_signals_to_submitit(job, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    heed_preemption(first=True)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    assert not (job / "asked").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cell_whose_time_is_over_goes_back_into_the_queue(work):
    """submitit sends its signal to the job's process; what runs then is ended, and its next turn has the result."""
    submitit = pytest.importorskip("submitit")
    (work / "suite.yaml").write_text(SUITE)
    (cell,) = jobs(read_suite(work / "suite.yaml"))
    executor = submitit.AutoExecutor(folder=work / "submitit", cluster="local")
    executor.update_parameters(timeout_min=9)  # any time is over then, in submitit's eyes
    handle = executor.submit(Cell(), cell)
    until = time.time() + 300
    while not (notes := list(cell.folder.glob(f"{FOLDER}/*"))):
        assert time.time() < until and handle.state == "RUNNING", handle.stderr()
        time.sleep(0.05)
    pid = notes[0].name.rpartition("-")[2]
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(parent), signal.SIGUSR2)
    assert handle.result() == "" and cell.complete, handle.stderr()
    assert "Requeued job" in handle.stdout() and not list(cell.folder.glob(FOLDER))


def test_without_slurm_the_signal_is_left_alone(work, monkeypatch):
    before = signal.getsignal(signal.SIGUSR1)
    heed_preemption(first=True)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    heed_preemption(first=True)
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_pre_empted_training_ends_with_the_weights_of_an_undisturbed_one(job):
    """The signal comes in the middle of the second of three epochs; the same command goes on."""
    fit = [*FIT, "--trainer.max_epochs=3", "--trainer.limit_val_batches=0", "--resume", "--run"]
    process = faulty("preempt", 0, "training:6", *fit, "cut")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 143 and "job 4242 is back in Slurm's queue" in said, said
    assert "samzoo fit --resume --run cut   resumes at the last complete epoch" in said, said
    assert (job / "asked").read_text() == "requeue 4242\n"
    last = job / "cut/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 0
    assert not list(job.glob("cut/**/hpc_ckpt*"))
    samzoo = [sys.executable, "-m", "samzoo.cli"]
    for run in ("cut", "whole"):
        done = subprocess.run([*samzoo, *fit, run], capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
    cut = torch.load(last, weights_only=True)
    whole = torch.load(job / "whole/checkpoints/last.ckpt", weights_only=True)
    assert cut["global_step"] == whole["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][name]), name


def test_the_batch_script_is_sound():
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    lines = re.findall(r"(?m)^#SBATCH --([a-z-]+)(?:=(\S+))?$", SCRIPT.read_text())
    options = dict(lines)
    assert len(lines) == SCRIPT.read_text().count("\n#SBATCH ") and set(options) <= SBATCH_OPTIONS
    assert options["signal"] == "SIGUSR1@120" and "requeue" in options and options["open-mode"] == "append"
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert "#SBATCH" not in SCRIPT.read_text().split("\nCONFIG=")[1]  # sbatch reads no further than the first command
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    assert f"*{SCRIPT.suffix}" in data


def test_the_batch_scripts_samzoo_line_is_understood(work, monkeypatch, capsys):
    command(work, "srun", 'printf "%s\\n" "$@" > line')
    monkeypatch.setenv("PATH", f"{work / 'bin'}:{os.environ['PATH']}")
    script = SCRIPT.read_text().replace("sam_med2d_amos.yaml", "sam_med2d_phantom.yaml")
    env = os.environ | {"SLURM_CPUS_PER_TASK": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}
    subprocess.run(["bash"], input=script, text=True, env=env, check=True)
    line = (work / "line").read_text().splitlines()
    own, args = line[: line.index("samzoo")], line[line.index("samzoo") + 1 :]
    assert own == ["--kill-on-bad-exit=1", "--cpus-per-task=8"]
    assert args[args.index("--trainer.devices") + 1] == "4" and args[args.index("--trainer.num_nodes") + 1] == "2"
    assert "--resume" in args and "--run" in args
    args[args.index("--trainer.accelerator") + 1] = "no_such_thing"  # all else is understood before it is refused
    assert main([*args, *PHANTOM]) == 2
    assert "no_such_thing" in capsys.readouterr().err
