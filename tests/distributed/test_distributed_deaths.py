"""A process that dies ends the run soon, with no process left, and with the case that it was at."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from distributed_helpers import FIT, TWO, UNTRAINED, ended, faulty, in_session

from samzoo.cli import main
from samzoo.data.store import StoredCase
from samzoo.errors import DataError
from samzoo.whereabouts import FOLDER

CASE = r"phantom_\d\d\d"


def no_notes(run):
    return not list(Path(run).glob(f"**/{FOLDER}"))


@pytest.mark.parametrize("fault", ["kill", "raise", "refuse"])
def test_a_loader_that_dies_names_its_case(work, capfd, monkeypatch, fault):
    """The fault is in a process that loads data: it alone is forked with the marked name."""
    this, image = os.getpid(), StoredCase.image

    def broken(self):
        if os.getpid() != this:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("x.png: this file is broken") if fault == "refuse" else RuntimeError("boom")
        return image(self)

    monkeypatch.setattr(StoredCase, "image", broken)
    command = [*FIT, "--run", "run", "--data.num_workers=1", "--trainer.limit_val_batches=0"]
    if fault == "raise":
        with pytest.raises(RuntimeError, match=rf"(?s)boom.*samzoo was at: reading case {CASE}"):
            main(command)
    else:
        assert main(command) == 1
        said = capfd.readouterr().err
        if fault == "kill":
            assert re.search(rf"data loader 0 of the process was killed at: reading case {CASE}", said), said
        else:
            assert said.splitlines()[-1] == "samzoo fit: x.png: this file is broken"
    assert no_notes("run")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("fault", "rank", "place", "verb", "message"),
    [
        ("raise", 1, "scoring", "test", rf"process 1 of 2 (failed|ended with exit code 1) at: test case {CASE}"),
        ("refuse", 1, "scoring", "test", r"samzoo test: labels/x.png: this file is broken"),
        ("raise", 0, "scoring", "test", rf"boom\n(\[rank0\]: )?samzoo: process 0 of 2 .* at: test case {CASE}"),
        ("kill", 1, "scoring", "test", rf"process 1 of 2 was killed by SIGKILL at: test case {CASE}"),
        ("kill", 0, "scoring", "test", rf"process 0 of 2 was killed at: test case {CASE}"),
        ("kill", 1, "scoring", "validate", rf"process 1 of 2 was killed by SIGKILL at: validation case {CASE}"),
        ("kill", 1, "training", "fit", rf"process 1 of 2 was killed by SIGKILL at: training cases {CASE}"),
        ("kill", 0, "training", "fit", rf"process 0 of 2 was killed at: training cases {CASE}"),
        ("raise", 1, "training", "fit", rf"process 1 of 2 (failed|ended with exit code 1) at: training cases {CASE}"),
    ],
)
def test_any_process_that_dies_ends_all(work, fault, rank, place, verb, message):
    command = FIT if verb == "fit" else [verb, *UNTRAINED]
    process = faulty(fault, rank, place, *command, "--run", "run", *TWO)
    said = ended(process, Path("died"))
    assert process.returncode not in (0, None)
    assert re.search(message, said), said
    if not (fault == "kill" and rank == 0):
        assert no_notes("run")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("number", "everywhere", "code"),
    [(signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143), (signal.SIGINT, True, 130)],
)
def test_a_signal_ends_all_processes(work, number, everywhere, code):
    """To the first alone, as `kill` sends it, or to all, as a terminal and Slurm do, while it waits for the second."""
    process = faulty("stall", 1, "training", *FIT, "--run", "run", *TWO)
    while not Path("died").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    time.sleep(2)
    Path("died").touch()
    for pid in in_session(process.pid) if everywhere else [process.pid]:
        os.kill(pid, number)
    said = ended(process, Path("died"))
    assert process.returncode == code, said
    assert signal.Signals(number).name in said or "samzoo fit --resume --run run" in said, said
