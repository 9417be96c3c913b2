"""How the cells of a suite are run: once, each on its own, side by side; failures and Ctrl-C."""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from samzoo import cli_runner, cli_slurm
from samzoo.cli import main
from samzoo.cli_runner import environments, run_job, visible_gpus
from samzoo.cli_suite import jobs
from samzoo.errors import DataError
from samzoo.leaderboard.board import Board
from samzoo.leaderboard.suite import read_suite
from samzoo.locks import locked
from samzoo.whereabouts import FOLDER, Place

FAKE = '''
"""Stands for the command line: what it does hangs on the cell's name, the first word of its run folder's."""
import json, os, pathlib, signal, sys, time

words = sys.argv[1:]
folder = pathlib.Path(words[words.index("--run") + 1])
kind = folder.name.split("-")[0]
names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SAMZOO_SIDE_BY_SIDE")
print("verb", words[0], *map(os.environ.get, names))
if words[0] == "fit" and kind == "bad":
    sys.exit("Epoch 1\\nsamzoo fit: the data set is not there\\n  what to fetch: it")
if words[0] == "fit" and kind == "broken":
    raise RuntimeError("shapes differ")
if kind == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").touch()
if words[0] == "fit" and kind == "slow" and "--resume" not in words:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        (folder / "begun").touch()
        time.sleep(30)
    except KeyboardInterrupt:
        (folder / "kept").touch()
        sys.exit(130)
if words[0] == "test":
    (folder / "records.csv").write_text(pathlib.Path("some_records.csv").read_text())
    (folder / "run.json").write_text("{}")
    if kind == "late":
        os.kill(os.getpid(), signal.SIGKILL)
'''
ROW = "phantom,SAM,{},p,1,liver,{},{},0,0,none,{},{},{},{},{},,,,0.1,0.1"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder in which the fake stands for every command that a cell runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    Path("x.yaml").write_text("model: {class_path: SAM}")
    Path("fake.py").write_text(FAKE)
    columns = (
        "dataset,method,case_id,patient,class_id,class_name,regime,step,effort,oracle_classes,oracle_slices,tp,fp,"
    )
    columns += "fn,dice,iou,nsd_1mm,nsd_2mm,hd95_mm,encode_seconds,decode_seconds"
    rows = [columns, ROW.format("a", "auto", 0, 6, 0, 4, 0.75, 0.6), ROW.format("a", "box_3d", 0, 9, 1, 1, 0.9, 9 / 11)]
    Path("some_records.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(cli_runner, "COMMAND", (sys.executable, "-S", "-E", str(tmp_path / "fake.py")))
    return tmp_path


@pytest.fixture
def board(monkeypatch):
    """What would be computed and rendered."""
    seen = {}

    def load_run(entry, folder, seed=None):
        if (folder / "records.csv").read_text() == "damaged":
            raise DataError(f"{folder}: records can't be read")
        return entry, folder, seed

    compute, report = ModuleType("samzoo.leaderboard.compute"), ModuleType("samzoo.leaderboard.report")
    compute.load_run, compute.compute_board = load_run, lambda runs, missing=(): Board(runs, tuple(missing))
    report.write_report = lambda out, content: seen.update(out=out, runs=content.sections, missing=content.missing)
    for module in (compute, report):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def suite(*names, extra=""):
    cells = ", ".join(f"{name}: {{config: x.yaml}}" for name in names)
    Path("suite.yaml").write_text(f"{extra}\ncells: {{{cells}}}")
    return jobs(read_suite(Path("suite.yaml")))


def leaderboard(*options):
    return main(["leaderboard", "--suite", "suite.yaml", *options])


def test_cells_are_run_once_and_told(work, board, capfd):
    first, second = suite("a", "b")
    assert leaderboard() == 0
    assert [m.reason for m in board["missing"]] == ["not run yet"] * 2 and not board["runs"]
    assert leaderboard("--fit") == 0
    out = re.sub(r"\d+ s ", "N s ", capfd.readouterr().out)
    assert "cell 1 of 2 (a): fit and test; N s passed, no estimate yet" in out
    assert "cell 2 of 2 (b): fit and test; N s passed, about N s left (a weak estimate: 1 cells never ran here)" in out
    assert re.search(r"cell 2 of 2 \(b\): done in \d+ s, Dice 0\.750 \(auto\)", out) and "verb" not in out
    log = first.log.read_text()
    assert "$ samzoo fit --config x.yaml" in log and "verb test" in log
    assert board["runs"] == [("a", first.folder, 0), ("b", second.folder, 0)] and not board["missing"]
    begun = first.log.stat().st_mtime_ns
    assert leaderboard("--fit", "--verbose") == 0
    assert first.log.stat().st_mtime_ns == begun and "2 of 2 cells are complete already" in capfd.readouterr().out
    Path("suite.yaml").write_text("seeds: [0, 1]\ncells: {a: {config: x.yaml}}")
    assert leaderboard("--fit", "--verbose") == 0
    out = capfd.readouterr().out
    assert "verb fit" in out and re.search(r"cell 2 of 2 \(a, seed 1\): .* passed, about \d+ s left\n", out)
    assert [seed for _, _, seed in board["runs"]] == [0, 1]


def test_a_failure_stays_with_its_cell_and_is_tried_again(work, board, capfd):
    bad, *_ = suite("bad", "broken", "killed", "good")
    assert leaderboard("--fit") == 1
    out, err = capfd.readouterr()
    assert "3 of 4 cells failed; the next call tries again" in err
    assert f"  bad: samzoo fit: the data set is not there\nwhat to fetch: it (log: {bad.log})" in err
    assert "  broken: RuntimeError: shapes differ" in err and "ended by SIGKILL (out of memory?)" in err
    assert "cell 4 of 4 (good): done" in out
    assert [run[0] for run in board["runs"]] == ["good"]
    reasons = {m.entry: m.reason for m in board["missing"]}
    assert reasons["bad"] == "failed: samzoo fit: the data set is not there what to fetch: it"
    assert reasons["broken"] == "failed: RuntimeError: shapes differ"
    assert leaderboard() == 0
    assert {m.entry: m.reason for m in board["missing"]} == reasons, "a later call knows as well"
    fake = Path("fake.py")
    fake.write_text(fake.read_text().replace('"bad"', '"other"').replace('"broken"', '"other"').replace("killed", "x"))
    assert leaderboard("--fit") == 0
    assert len(board["runs"]) == 4 and not board["missing"] and not bad.failure.exists()


def test_a_cell_that_was_killed_once_its_result_was_whole_is_done(work, board, capfd):
    (job,) = suite("late")
    assert leaderboard("--fit") == 0
    assert "cell 1 of 1 (late): done" in capfd.readouterr().out and not job.failure.exists()
    note = job.folder / FOLDER / "a"
    note.parent.mkdir()
    note.write_text(json.dumps(asdict(Place("the process", socket.gethostname(), 2**22 + 1))))
    assert leaderboard() == 0 and not note.parent.exists(), "nor is anything left of it"


def test_a_damaged_result_does_not_stop_the_others(work, board):
    first, _ = suite("a", "b")
    leaderboard("--fit")
    (first.folder / "records.csv").write_text("damaged")
    assert leaderboard() == 0
    assert [run[0] for run in board["runs"]] == ["b"]
    (lost,) = board["missing"]
    assert lost.entry == "a" and lost.reason == f"{first.folder.name}: records can't be read"


def test_the_board_names_no_folder_of_this_machine(work, board, capfd):
    (work / "study").mkdir()
    (work / "study/mine.yaml").write_text(f"runs: {work}/runs\ncells: {{a: {{config: x.yaml}}}}")
    (job,) = jobs(read_suite(Path("study/mine.yaml")))
    job.folder.parent.mkdir()
    job.failure.write_text(f"OSError: no '/far/away/scan 1.nii', {work}/w.pth and {job.folder}/x; see https://a.b/c/d")
    assert main(["leaderboard", "--suite", "study/mine.yaml"]) == 0
    (lost,) = board["missing"]
    expected = f"OSError: no 'scan 1.nii', w.pth and {job.folder.name}/x; see https://a.b/c/d"
    assert lost.reason == f"failed: {expected}"
    assert "/far/away/scan" in capfd.readouterr().out, "the terminal has it all"
    assert board["out"] == Path("study/mine"), "no other suite's board is overwritten"
    assert leaderboard() == 1, "suite.yaml is not there"
    suite("a")
    assert leaderboard() == 0 and board["out"] == Path()


def test_a_closed_terminal_is_nothing_to_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with cli_runner._hangups_as_interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_lets_what_runs_keep_its_state(work, board, capfd, number, code):
    good, slow, _ = suite("good", "slow", "later")

    def interrupt():
        while not (slow.folder / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    handler = signal.getsignal(signal.SIGTERM)
    assert leaderboard("--fit") == code
    assert signal.getsignal(signal.SIGTERM) is handler
    assert (slow.folder / "kept").exists() and good.complete and not slow.failure.exists()
    out = capfd.readouterr().out
    assert "cell 2 of 3 (slow): interrupted" in out and "later" not in out
    assert leaderboard() == 0
    assert [m.reason for m in board["missing"]] == ["begun, not finished", "not run yet"]
    assert leaderboard("--fit") == 0
    assert "(slow): going on" in capfd.readouterr().out and len(board["runs"]) == 3


def test_side_by_side_each_has_a_gpu_or_its_share_of_cores(work, board, monkeypatch):
    found = suite("a", "b", "c")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(8)}, raising=False)
    assert leaderboard("--fit", "--jobs", "2") == 0
    assert all("verb fit None 4 2" in job.log.read_text() for job in found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5")
    assert environments(1) == [{}]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(3)] == ["3", "GPU-5", "3"]
    for none in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    listing = (
        "GPU 0: NVIDIA H100 (UUID: GPU-1)\n  MIG 1g.10gb Device 0: (UUID: MIG-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n"
    )
    Path("nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{listing}END\n")
    Path("nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{work}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]


def test_a_cell_that_another_process_runs_is_left_to_it(work):
    (job,) = suite("a")
    job.folder.parent.mkdir()
    with locked(Path(f"{job.folder}.lock")):
        assert run_job(job) == "another process is running it"
    assert not job.log.exists()
    assert run_job(job) == "" and job.complete


def test_slurm_jobs_end_as_runs_and_failures(work, board, monkeypatch, capfd):
    pytest.importorskip("submitit")
    good, bad = suite("good", "bad")
    submit = cli_slurm.submit
    monkeypatch.setattr(cli_slurm, "submit", lambda *given: submit(*given, cluster="debug"))
    options = ("--fit", "--launcher", "slurm", "--slurm", "partition=gpu", "--slurm", "time=90")
    assert leaderboard(*options) == 0 and not good.complete
    assert "good: job DEBUG" in capfd.readouterr().out
    assert leaderboard(*options, "--wait") == 1
    assert "bad: samzoo fit: the data set is not there" in capfd.readouterr().err
    assert good.complete and bad.failure.exists() and [run[0] for run in board["runs"]] == ["good"]
    assert leaderboard("--fit", "--launcher", "slurm", "--slurm", "colour=red") == 2
    assert "Unknown argument 'colour'" in capfd.readouterr().err


def test_a_job_in_a_process_of_its_own(work):
    submitit = pytest.importorskip("submitit")
    (job,) = suite("a")
    executor = submitit.AutoExecutor(folder="jobs", cluster="local")
    job.folder.parent.mkdir()
    with locked(Path(f"{job.folder}.lock")):
        assert executor.submit(cli_slurm.run_job, job).result() == "another process is running it"


def test_slurm_without_submitit_or_with_parameters_that_make_no_sense(work, board, monkeypatch, capfd):
    suite("a")
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert leaderboard("--fit", "--launcher", "slurm") == 1
    assert "pip install 'samzoo[slurm]'" in capfd.readouterr().err
    for given in ("partition", "time=1:00:00"):
        assert leaderboard("--fit", "--launcher", "slurm", "--slurm", given) == 2
    assert leaderboard("--fit", "--slurm", "partition=gpu") == 2
    assert leaderboard("--fit", "--jobs", "0") == 2
