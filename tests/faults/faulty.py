"""Commands in processes forked from this one, which are killed or find the disk full, and what they leave.

The forks need no start-up: torch and samzoo are imported before. Nothing is computed before a fork.
"""

from __future__ import annotations

import csv
import errno
import functools
import hashlib
import http.server
import io
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import samzoo.cli_download
import samzoo.cli_lightning
import samzoo.data.verify
import samzoo.leaderboard.compute
import samzoo.leaderboard.report
from samzoo import cli_runner, download
from samzoo.cli import main
from samzoo.data.archives import ARCHIVES, Archive
from samzoo.data.features import FeatureCache
from samzoo.data.store import Store
from samzoo.evaluation.records import TIME_COLUMNS
from samzoo.evaluation.unfinished import Unfinished
from samzoo.training import WholeCheckpoints

STAGES = ("os.replace", "os.fsync", "os.mkdir", "os.unlink", "os.rmdir", "os.chmod", "fcntl.flock", "torch.save")
"""What makes things lasting, or removes them."""
CALLS = "calls.json"
DONE = "SAMZOO_FAULTS_DONE"
"""Names the file in which forks note what is safe: epochs, cases, views, predictions, fetched bytes."""

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
FOLDER = "Task04_Hippocampus"
PREDICTED = ["--prompts", "boxes.json", "--out", "predicted", "--overlays"]
COMMANDS = {
    "phantom": ["prepare", "phantom", "scans", "--cases", "4", "--size", "32"],
    "verify": ["verify", "scans", "--json", "report.json", "--overlays", "seen"],
    "prepare": ["prepare", "--config", "scans.yaml"],
    "prepare_data": ["prepare", "--data", "canonical.yaml"],
    "download": ["download", FOLDER, "--out", "fetched"],
    "fit": ["fit", *MED2D, "--run", "fitted", "--resume"],
    "test": ["test", "--run", "fitted", "--protocol.overlays=1"],
    "predict": ["predict", "--run", "fitted", "--images", "scans/imagesTr", *PREDICTED],
    "features": ["fit", *PROMISE, "--run", "promised", "--resume"],
    "leaderboard": ["leaderboard", "--fit", "--suite", "suite.yaml"],
}
CELL = "--data.phantom.cases=6 --data.phantom.size=32 --data.phantom.slices=[4,5] --data.test_fraction=0.5 "
CELL += "--trainer.accelerator=cpu --protocol.regimes=[box_3d] --protocol.surface_metrics=false"
FITTED = [setting for setting in MED2D[2:] if "epochs" not in setting and "regimes" not in setting]
FITTED += ["--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1", "--protocol.regimes=[box_3d]"]
FITTED += ["--data.units_per_epoch=4"]
SUITE = {
    "cells": {
        "ellipse": {"config": "box_ellipse_phantom.yaml", "fit": False, "settings": CELL.split()},
        "med2d": {"config": "sam_med2d_phantom.yaml", "settings": FITTED},
    }
}
QUICK = ("phantom", "verify", "prepare", "prepare_data", "download", "predict")
"""Commands that take a second or two."""
BOXES = {f"phantom_{case:03d}": {"mine": {"liver": [{"boxes": [[4, 6, 3, 18, 20, 9]]}]}} for case in range(4)}
GIVEN = {
    "suite.yaml": SUITE,
    "boxes.json": {"format": "samzoo-prompts", "version": 1, "cases": BOXES},
    "scans.yaml": {"data": {"root": "scans"}},
    "canonical.yaml": {"root": "scans", "canonical": True},
}
"""What a working folder holds before any command; as JSON, which is YAML as well."""


@dataclass
class Ended:
    code: int
    said: str
    seconds: float


@dataclass
class Undisturbed:
    """How long a command takes, and how often it calls each stage."""

    seconds: float
    calls: dict[str, int]


@dataclass
class Fault:
    """What happens to a command.

    Args:
        number: the signal that it gets, if any.
        after: seconds until then.
        stage: or one of `STAGES`, at whose call it gets the signal,
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

    def count(self, name: str, fault: Fault, well: bool) -> None:
        kind = signal.Signals(fault.number).name if fault.number else "full disk"
        key = f"{kind} in {name}" + (f" at {fault.stage}" if fault.stage else "")
        self.faults[key] += 1
        self.well[key] += well

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
    _ENDED.pop(child, None)  # numbers of processes come again
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
        calls = _count_calls(fault)
        if fault and fault.limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.limit, resource.RLIM_INFINITY))
        if args[0] == "download":
            url, md5 = served()
            ARCHIVES["msd_hippocampus"] = Archive(FOLDER, md5)
            args = [*args, "--url", url]
        code = main(args)
        if not fault:
            (folder / CALLS).write_text(json.dumps(calls))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _count_calls(fault: Fault | None) -> Counter:
    """Counts the calls of all stages; at the one of the fault, it strikes."""
    calls = Counter()

    def counted(stage: str) -> None:
        module, _, function = stage.rpartition(".")
        original = getattr(sys.modules[module], function)

        def counting(*given, **named):
            calls[stage] += 1
            if fault and stage == fault.stage and calls[stage] == fault.call:
                os.kill(os.getpid(), fault.number)
            return original(*given, **named)

        setattr(sys.modules[module], function, counting)

    for stage in STAGES:
        counted(stage)
    return calls


def _note_what_is_done() -> None:
    def noted(owner, name: str, text: Callable[..., str | None]) -> None:
        original = getattr(owner, name)

        def noting(*given, **named):
            result = original(*given, **named)
            if said := text(*given, **named):
                _note(said)
            return result

        setattr(owner, name, noting)

    noted(Unfinished, "keep", lambda self, result: f"case {self.result} {result.case_id}")
    noted(WholeCheckpoints, "save_checkpoint", _epoch)
    noted(Store, "_build_case", lambda self, entry, target: f"decoded {target}")
    noted(FeatureCache, "_build_view", lambda self, method, entry, case, view, bar: f"view {view} {case.folder}")
    noted(samzoo.cli_lightning, "write_label", lambda label, source, target, *_: f"predicted {target}")
    transfer = download._transfer

    def transferred(url: str, part: Path) -> None:
        before = part.stat().st_size if part.exists() else 0
        transfer(url, part)
        if part.stat().st_size != before:  # else it had been fetched whole, and only that was asked
            _note(f"fetched {part}")

    download._transfer = transferred


def _epoch(self, checkpoint, path, storage_options=None) -> str | None:
    return f"epoch {Path(path).parent.parent.name} {checkpoint['epoch']}" if Path(path).stem == "last" else None


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


# --- what is fetched ---------------------------------------------------------------------------------------------


@functools.cache
def served() -> tuple[str, str]:
    """Address and md5 of an archive, which comes in pieces for a while. The server is a thread of this process."""
    rng, packed = np.random.default_rng(0), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, count in (("dataset.json", 500), *((f"imagesTr/{i}.nii", 600_000) for i in range(8))):
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = count
            tar.addfile(member, io.BytesIO(rng.bytes(count)))
    body = packed.getvalue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "bytes=0-")
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(416 if start >= len(body) else 206 if start else 200)
            part = f"{start}-{len(body) - 1}" if start < len(body) else "*"
            self.send_header("Content-Range", f"bytes {part}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("ETag", '"1"')
            self.end_headers()
            try:
                for piece in range(start, len(body), 300_000):
                    self.wfile.write(body[piece : piece + 300_000])
                    time.sleep(0.02)
            except OSError:  # who asked was killed
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/{FOLDER}.tar", hashlib.md5(body).hexdigest()


# --- what is left ------------------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, object]:
    """What must be the same, whatever happened on the way: path -> its meaning, without times."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = re.sub(r"test-\d+-\d+", "test-TIME", str(path.relative_to(folder)))
        ours = (
            name in ("done.txt", "runs/times.json", *GIVEN) or path.suffix in (".lock", ".log") or path.name == "lock"
        )
        if ours:
            continue
        if name.startswith("home/"):  # where digests of paths and times are part of names
            name = re.sub(r"-[0-9a-f]{12}\b", "-DIGEST", re.sub(r"/[0-9a-f]{12}\.", "/DIGEST.", name))
            found.setdefault(name, []).append(hashlib.sha256(path.read_bytes()).hexdigest())
            found[name].sort()
        else:
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
    ours = path.parts[-2] in ("seen", "overlays") or path.name in ("prompts.json", "report.json", "config.yaml")
    if ours or path.suffix in (".npz", ".nii", ".gz") or path.name == "dataset.json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return "is there"


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders; there must be none in the end."""
    hidden = (p for p in folder.rglob("*") if p.name.startswith(".") or p.suffix in (".part", ".version", ".tmp"))
    return [str(p.relative_to(folder)) for p in hidden if p.suffix != ".lock"]


def done_twice(folder: Path) -> list[str]:
    path = folder / "done.txt"
    lines = Counter(path.read_text().splitlines()) if path.exists() else {}
    return [f"{line} ({count} times)" for line, count in lines.items() if count > 1]


def prepared(folder: Path) -> Path:
    """A working folder with what is given."""
    folder.mkdir(parents=True)
    for name, content in GIVEN.items():
        (folder / name).write_text(json.dumps(content))
    served()
    return folder


def copied(name: str, whole: Path, folder: Path) -> Path:
    """A working folder with what a quick command needs of an undisturbed one."""
    prepared(folder)
    needed = {"phantom": [], "download": []}.get(name, ["scans"]) + ["fitted", "home/phantom-*"] * (name == "predict")
    for part in needed:
        for path in filter(Path.is_dir, whole.glob(part)):
            shutil.copytree(path, folder / path.relative_to(whole))
    return folder


def killed_well(name: str, fault: Fault, ended: Ended) -> bool:
    """A kill says nothing; SIGTERM ends at once, with 143 and a line on what is kept."""
    if name == "leaderboard" and ended.code == 1:  # it was a cell that got it
        how = r"samzoo (fit|test): terminated; " if fault.number == signal.SIGTERM else "ended by SIGKILL"
        return bool(re.search(rf"cell \d of 2 \(\w+\): failed after .*{how}", ended.said))
    if fault.number == signal.SIGKILL:
        return ended.code == -signal.SIGKILL
    early = ended.code == -signal.SIGTERM and not ended.said  # before `main`
    told = ended.code == 143 and f"samzoo {COMMANDS[name][0]}: terminated; " in ended.said
    return (early or told) and "Traceback" not in ended.said


def full_well(name: str, fault: Fault | str, ended: Ended) -> bool:
    """An error for people, that names a file or a folder."""
    told = "no space left" in ended.said or ("GB are free; free some" in ended.said and name == "features")
    told = told or ("MiB free; free some" in ended.said and name == "download")
    return ended.code == 1 and told and "Traceback" not in ended.said


def hours_later(folder: Path) -> None:
    """What a killed command has left is taken for another machine's that still runs, for an hour."""
    for left in folder.rglob(".*.unfinished"):
        os.utime(left, (0, 0))


def until_done(
    name: str, folder: Path, faults: list[Fault], tally: Tally, check: Callable[[str, Fault, Ended], bool]
) -> Ended:
    """Give a command again and again, once with each fault, then without one."""
    for fault in faults:
        ended = run(COMMANDS[name], folder, fault)
        hours_later(folder)
        if ended.code == 0:
            continue  # done before the fault came: the next one meets a command that has nothing to do
        tally.count(name, fault, well := check(name, fault, ended))
        if not well:
            print(f"{name}, {fault}: {ended.code}\n{ended.said[-3000:]}")
    return run(COMMANDS[name], folder)


def drawn(rng: random.Random, undisturbed: Undisturbed) -> Fault:
    """A kill at a random time, or at a random call of what makes things lasting."""
    number = rng.choice([signal.SIGKILL, signal.SIGTERM])
    if rng.random() < 0.5:
        return Fault(number, after=rng.uniform(0, undisturbed.seconds))
    stage = rng.choice(sorted(undisturbed.calls))
    return Fault(number, stage=stage, call=rng.randint(1, undisturbed.calls[stage]))
