"""Commands in processes forked from this one, which are killed or find the disk full, and what they leave.

The forks need no start-up: torch and samzoo are imported before. Nothing is computed before a fork.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import logging
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

import samzoo.cli_lightning
import samzoo.leaderboard.compute
import samzoo.leaderboard.report
from samzoo import cli_runner
from samzoo.cli import main
from samzoo.evaluation.records import TIME_COLUMNS
from samzoo.evaluation.unfinished import Unfinished
from samzoo.training import WholeCheckpoints

DONE = "SAMZOO_FAULTS_DONE"
"""Names the file in which forks note each epoch and each case once it is safe."""

COMMON = [
    "--data.phantom.cases=6",
    "--data.phantom.size=32",
    "--data.phantom.slices=[4,5]",
    "--data.units_per_epoch=8",
    "--data.batch_size=4",
    "--data.val_fraction=0.2",
    "--data.test_fraction=0.5",
    "--trainer.max_epochs=3",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--protocol.surface_metrics=false",
]
MED2D = ["--config", "sam_med2d_phantom", *COMMON, "--protocol.regimes=[box_per_slice,box_clicks_3d]"]
MED2D += ["--model.init_args.weights=null", "--model.init_args.freeze_encoder=false", "--model.init_args.image_size=64"]
PROMISE = ["--config", "promise_phantom", *COMMON, "--protocol.regimes=[auto]", "--data.features={views: 0}"]
COMMANDS = {
    "fit": ["fit", *MED2D, "--run", "fitted", "--resume"],
    "test": ["test", "--run", "fitted", "--protocol.overlays=1"],
    "features": ["fit", *PROMISE, "--run", "promised", "--resume"],
    "leaderboard": ["leaderboard", "--fit", "--suite", "suite.yaml"],
}
CELL = "--data.phantom.cases=6 --data.phantom.size=32 --data.phantom.slices=[4,5] --data.test_fraction=0.5 "
CELL += "--trainer.accelerator=cpu --protocol.regimes=[box_3d] --protocol.surface_metrics=false"
SUITE = {"cells": {"ellipse": {"config": "box_ellipse_phantom.yaml", "fit": False, "settings": CELL.split()}}}


@dataclass
class Ended:
    code: int
    said: str
    seconds: float


@dataclass
class Fault:
    """What happens to a command.

    Args:
        number: the signal that it gets, if any.
        after: seconds until then.
        stage: or a function as `module.name`, at whose call it gets the signal,
        call: counted from 1.
        limit: bytes that a file may hold, as a stand-in for a full disk.
    """

    number: int = 0
    after: float | None = None
    stage: str = ""
    call: int = 1
    limit: int | None = None

    def __str__(self) -> str:
        what = signal.Signals(self.number).name if self.number else "full disk"
        at = f"{self.stage}:{self.call}" if self.stage else f"{self.after:.2f} s" if self.after is not None else ""
        return f"{what} {at}{f'{self.limit} bytes' if self.limit is not None else ''}"


@dataclass
class Tally:
    """How often what happened, for the report."""

    faults: Counter = field(default_factory=Counter)
    well: Counter = field(default_factory=Counter)

    def table(self) -> str:
        lines = [f"{key}: {self.well[key]} of {count} ended well" for key, count in sorted(self.faults.items())]
        return "\n".join([*lines, f"in all: {self.well.total()} of {self.faults.total()}"])


def run(args: list[str], folder: Path, fault: Fault | None = None, limit_seconds: float = 240) -> Ended:
    """One command in a fork, in a working folder; `folder/home` is its SAMZOO_HOME."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _become(args, folder, fault, writer)
    os.close(writer)
    said: list[bytes] = []
    listener = threading.Thread(target=lambda: said.extend(iter(lambda: os.read(reader, 65536), b"")))
    listener.start()
    if fault and fault.after is not None:
        _wait(child, fault.after)
        _kill(child, fault.number)
    status = _wait(child, limit_seconds)
    if status is None:
        _kill(child, signal.SIGKILL)
        status = _wait(child, 10)
    seconds = time.monotonic() - begun
    listener.join(30)
    os.close(reader)
    text = b"".join(said).decode(errors="replace")
    return Ended(os.waitstatus_to_exitcode(status), text, seconds)


_ENDED: dict[int, int] = {}


def _wait(child: int, seconds: float) -> int | None:
    last = time.monotonic() + seconds
    while child not in _ENDED:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            _ENDED[child] = status
        elif time.monotonic() > last:
            return None
        else:
            time.sleep(0.005)
    return _ENDED[child]


def _kill(child: int, number: int) -> None:
    if child not in _ENDED:
        os.kill(child, number)


def _become(args: list[str], folder: Path, fault: Fault | None, output: int) -> None:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ |= {"SAMZOO_HOME": str(folder / "home"), DONE: str(folder / "done.txt")}
        for number in (1, 2):
            os.dup2(output, number)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
        for logger in (logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)):
            for handler in logger.handlers:  # of the process that was forked, whose streams may be files
                if isinstance(handler, logging.StreamHandler):
                    handler.setStream(sys.stderr)
        torch.set_num_threads(1)
        _note_what_is_done()
        cli_runner.subprocess = _ForkedCommands
        if fault and fault.stage:
            _strike_at(fault)
        if fault and fault.limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.limit, resource.RLIM_INFINITY))
        code = main(args)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _strike_at(fault: Fault) -> None:
    name, _, function = fault.stage.rpartition(".")
    owner = sys.modules[name] if name in sys.modules else getattr(samzoo.cli_lightning, name)
    original, calls = getattr(owner, function), Counter()

    def struck(*given, **named):
        calls["all"] += 1
        if calls["all"] == fault.call:
            os.kill(os.getpid(), fault.number)
        return original(*given, **named)

    setattr(owner, function, struck)


def _note_what_is_done() -> None:
    keep, save = Unfinished.keep, WholeCheckpoints.save_checkpoint

    def kept(self, result) -> None:
        keep(self, result)
        _note(f"case {self.result} {result.case_id}")

    def saved(self, checkpoint, path, storage_options=None) -> None:
        save(self, checkpoint, path, storage_options)
        if Path(path).stem == "last":
            _note(f"epoch {Path(path).parent.parent.name} {checkpoint['epoch']}")

    Unfinished.keep, WholeCheckpoints.save_checkpoint = kept, saved


def _note(text: str) -> None:
    try:
        with open(os.environ[DONE], "a") as file:
            file.write(text + "\n")
    except OSError as error:
        if error.errno not in (errno.EFBIG, errno.ENOSPC):
            raise


class _ForkedCommands:
    """Stands for `subprocess` in the runner of cells: the commands are forked as well."""

    PIPE, STDOUT, TimeoutExpired = subprocess.PIPE, subprocess.STDOUT, subprocess.TimeoutExpired
    run = staticmethod(subprocess.run)

    class Popen:
        stdout = None

        def __init__(self, command, stdin, stdout, stderr, env, **_) -> None:
            source, self._held = os.pipe()
            self.pid, self._status = os.fork(), None
            if self.pid == 0:
                code = 70
                try:
                    os.setpgid(0, 0)
                    os.close(self._held)
                    os.dup2(source, 0)
                    for number in (1, 2):
                        os.dup2(stdout.fileno(), number)
                    os.environ |= {"SAMZOO_END_WITH_PARENT": env["SAMZOO_END_WITH_PARENT"]}
                    threading._main_thread = threading.current_thread()  # as it is in a process of its own
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    code = main(command[len(cli_runner.COMMAND) :])
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    os._exit(code)
            os.close(source)

        def poll(self) -> int | None:
            if self._status is None:
                found, status = os.waitpid(self.pid, os.WNOHANG)
                if found:
                    os.close(self._held)
                    self._status = os.waitstatus_to_exitcode(status)
            return self._status

        def wait(self, timeout: float | None = None) -> int:
            last = None if timeout is None else time.monotonic() + timeout
            while self.poll() is None:
                if last is not None and time.monotonic() > last:
                    raise subprocess.TimeoutExpired("forked", timeout)
                time.sleep(0.01)
            return self._status


# --- what is left ------------------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, object]:
    """What must be the same, whatever happened on the way: path -> its meaning, without times."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = re.sub(r"test-\d+-\d+", "test-TIME", str(path.relative_to(folder)))
        ours = name in ("done.txt", "suite.yaml", "runs/times.json") or path.suffix in (".lock", ".log")
        if ours or name.startswith("home/"):
            continue
        found[name] = _meaning(path)
    return found


def _meaning(path: Path) -> object:
    if path.suffix == ".ckpt":
        state = torch.load(path, weights_only=True)["state_dict"]
        return {k: hashlib.sha256(v.contiguous().numpy().tobytes()).hexdigest() for k, v in state.items()}
    if path.name in ("records.csv", "metrics.csv", "leaderboard.csv"):
        with open(path, newline="") as file:
            times = (*TIME_COLUMNS, "training_seconds", "ms_per_encode", "ms_per_prompt", "ms_per_case")
            times += ("peak_memory_bytes", "training_memory_bytes")
            return [{k: v for k, v in row.items() if k not in times} for row in csv.DictReader(file)]
    if path.name == "run.json":
        info = json.loads(path.read_text())
        cost = {k: v for k, v in info["cost"].items() if k in ("slices", "images_encoded", "prompts_decoded")}
        return [info["protocol"], info["config"], info["flops"], info["test_signature"], cost, *sorted(info)]
    if path.name == "training.json":
        return {k: v for k, v in json.loads(path.read_text()).items() if k in ("epochs", "steps", "complete")}
    if path.name == "prompts.json" or path.suffix == ".npz" or path.name == "config.yaml":
        return path.read_bytes()
    return "is there"


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders; there must be none in the end."""
    marks = (".unfinished", ".tmp")
    found = [p for p in folder.rglob("*") if p.name.endswith(marks) or p.name.startswith((".building-", ".phantom-"))]
    return [str(p.relative_to(folder)) for p in found]


def done_twice(folder: Path) -> list[str]:
    path = folder / "done.txt"
    lines = Counter(path.read_text().splitlines()) if path.exists() else {}
    return [f"{line} ({count} times)" for line, count in lines.items() if count > 1]


def prepared(folder: Path) -> Path:
    """A working folder with the suite."""
    folder.mkdir(parents=True)
    (folder / "suite.yaml").write_text(json.dumps(SUITE))
    return folder


def until_done(
    name: str, folder: Path, faults: list[Fault], tally: Tally, check: Callable[[str, Fault, Ended], bool]
) -> Ended:
    """Give a command again and again, once with each fault, then without one."""
    for fault in faults:
        ended = run(COMMANDS[name], folder, fault)
        for left in folder.rglob(".*.unfinished"):  # the next command comes some hours later
            os.utime(left, (0, 0))
        if ended.code == 0:
            continue  # done before the fault came: the next one meets a command that has nothing to do
        kind = signal.Signals(fault.number).name if fault.number else "full disk"
        key = f"{kind} in {name}" + (f" at {fault.stage}" if fault.stage else "")
        tally.faults[key] += 1
        tally.well[key] += check(name, fault, ended)
    return run(COMMANDS[name], folder)


def drawn(rng: random.Random, name: str, seconds: float) -> Fault:
    """A kill at a random time, or at a random call of what makes things lasting."""
    number = rng.choice([signal.SIGKILL, signal.SIGTERM])
    if rng.random() < 0.6:
        return Fault(number, after=rng.uniform(0, seconds))
    stage = rng.choice(["os.replace", "os.fsync", "os.replace", "torch.save"] if name != "test" else ["os.replace"])
    return Fault(number, stage=stage, call=rng.randint(1, 12 if stage != "torch.save" else 5))
