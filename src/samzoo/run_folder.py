"""Run folders: where a fit or a test writes, and how the newest one is found again. No torch.

A run is `runs/<name>/<time stamp>/`; a training has a `checkpoints` folder in it, a zero-shot test has none.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from samzoo.errors import ConfigError
from samzoo.locks import hold
from samzoo.paths import FINGERPRINT
from samzoo.writing import SUFFIX, keep_older, sweep, write_atomically, writing

RUNS = Path("runs")
CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
TRAINING = "training.json"
RESULT = "records.csv"
UNFINISHED = ".unfinished"
"""In a result folder: what a test has scored and not yet written, see `samzoo.evaluation.unfinished`."""
FIT_LOCK, TEST_LOCK = ".fit.lock", ".test.lock"
WAIT_SECONDS = 20
"""How long a process that was told to end may take."""
RUN_VARIABLE = "SAMZOO_RUN_FOLDER"
RESULT_VARIABLE = "SAMZOO_RESULT_FOLDER"
"""They tell the processes that Lightning starts for DDP which folders the first one made."""


def read_fingerprint(folder: Path) -> dict[str, Any]:
    """What a run found in its data when it was begun; empty where there is none, or none that can be read."""
    try:
        content = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def trained_on(folder: Path, dataset: str, root: Path, cases: Iterable[str]) -> list[str]:
    """Which of these cases of a data set a run was trained on, whether or not they are in its training split now.

    Args:
        folder: of the run.
        dataset: the data set's name; with another name it is the same one if its root is.
    """
    found = read_fingerprint(folder)
    if dataset != found.get("dataset") and str(root.resolve()) != found.get("root"):
        return []
    known = found.get("trained_on")
    return sorted(set(known) & set(cases)) if isinstance(known, list) else []


def write_beside(path: Path, text: str) -> None:
    """Write `path`; an older content that differs is kept as `<stem>-<n><suffix>`."""
    if path.exists() and path.read_text() != text:
        keep_older(path)
    write_atomically(path, lambda file: file.write(text))


@dataclass(frozen=True)
class Run:
    """A folder with a config and, after a fit, checkpoints."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def last(self) -> Path | None:
        """The checkpoint of the last complete epoch."""
        return path if (path := self.checkpoints / "last.ckpt").is_file() else None

    @property
    def complete(self) -> bool:
        """Whether its training has ended as its settings say."""
        try:
            return json.loads((self.path / TRAINING).read_text(encoding="utf-8")).get("complete") is True
        except (OSError, ValueError, AttributeError):
            return False

    @property
    def best(self) -> Path | None:
        """Best by validation Dice, else the last complete epoch, else what Ctrl-C left."""
        for name in ("best", "last", "interrupted"):
            if (path := self.checkpoints / f"{name}.ckpt").is_file():
                return path
        return None


def create(name: str) -> Run:
    """A new, empty folder `runs/<name>/<time stamp>`. Raises DataError: it can't be made."""
    return Run(_new_folder(RUNS / name))


_GOING_ON = {
    "fit": ", or use --resume",
    "test": " (a test that was stopped goes on with its own settings, once no other process is at it)",
}


def new(path: str | None, name: str, verb: str = "fit", config: str = "") -> Run:
    """A new run, or the one of a test without training that was begun and not ended.

    Args:
        path: its folder, if the user named one.
        name: what it is called else.
        verb: what it is for.
        config: text of its settings, by which a begun test is known.

    Raises:
        ConfigError: the folder is not empty. DataError: it can't be made.
    """
    folder = Path(path) if path else RUNS / name
    if verb == "test" and (begun := _begun_test(folder, config)):
        return begun
    if not path:
        return create(name)
    if not holds_nothing(folder):
        hint = _GOING_ON.get(verb, "")
        raise ConfigError(f"{path} exists already and is never overwritten: name a new folder{hint}")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return Run(folder)


def take(run: Run, first: bool = True) -> None:
    """Make a run ready for a training by this process, the first of its kind; see `claim`.

    Raises:
        ConfigError: another process is training in it.
        DataError: it can't be written.
    """
    with writing(run.checkpoints):
        run.checkpoints.mkdir(exist_ok=True)
    if first:
        if not claim(run.path / FIT_LOCK, WAIT_SECONDS):
            raise ConfigError(f"another process is training in {run.path}: wait for it, end it, or name another --run")
        tidy(run.path)
        sweep(run.checkpoints, live_seconds=0)  # nobody else writes there, and what is left may be large


def begin(run: Run, config: str) -> None:
    """Note what a training is about to do, after which it is not complete.

    Args:
        config: text of its settings.

    Raises:
        DataError: it can't be written.
    """
    if run.complete:
        record = json.loads((run.path / TRAINING).read_text(encoding="utf-8")) | {"complete": False}
        write_atomically(run.path / TRAINING, lambda file: file.write(json.dumps(record, indent=2) + "\n"))
    write_beside(run.config, config)


def given(path: Path) -> Run:
    """The run in the folder that the user named. Raises ConfigError: it holds no config.yaml."""
    if not (path / CONFIG).is_file():
        raise ConfigError(f"{path} is not a run folder: it holds no {CONFIG}{_listing()}")
    return Run(path)


def holds_nothing(path: Path) -> bool:
    """Whether a run can be begun in a folder: it is not there, or has nothing but what a killed beginning has left."""
    if not path.exists():
        return True
    inside = path.iterdir() if path.is_dir() else [path]
    return all(_of_no_account(p) or (p.name == CHECKPOINTS and holds_nothing(p)) for p in inside)


def _of_no_account(path: Path) -> bool:
    return path.name == FINGERPRINT or (path.name.startswith(".") and path.suffix in (SUFFIX, ".lock"))


def trainings(name: str | None = None) -> list[Run]:
    """All trainings under runs/, oldest first."""
    found = RUNS.glob(f"{name or '*'}/*/{CONFIG}")
    folders = sorted((p.parent for p in found if (p.parent / CHECKPOINTS).is_dir()), key=lambda p: p.name)
    return [Run(p) for p in folders]


def newest(name: str | None = None) -> Run:
    """The training that was started last (of one name, if given).

    Raises:
        ConfigError: there is none.
    """
    runs = trainings(name)
    if not runs:
        wanted = f"run of {name}" if name else "run"
        raise ConfigError(
            f"there is no trained {wanted} under {RUNS.absolute()}: start one with `samzoo fit --config ...`, "
            f"name one with --run DIR, or score a method as it is configured with --config ... --zero-shot{_listing()}"
        )
    return runs[-1]


def result_folder(run: Run, config: str) -> Path:
    """Where a test of this run writes: the run itself, or a `test-<time stamp>` in it with a config of its own.

    One that was begun with these settings and has no result yet is taken up again, unless another process is at it.
    The folder is this process's until it ends.

    Args:
        run: what is tested.
        config: text of the settings of this test; other ones than the run's are not mixed with its own result.

    Raises:
        DataError: it can't be made.
    """
    for folder in (run.path, *sorted(run.path.glob("test-*"))):
        tidy(folder)
        same = _is_asked(folder, config) or (folder != run.path and holds_nothing(folder))
        if same and not (folder / RESULT).exists() and claim(folder / TEST_LOCK):
            break
    else:
        folder = _new_folder(run.path, "test-")
        claim(folder / TEST_LOCK)
    if not (folder / CONFIG).is_file():
        write_atomically(folder / CONFIG, lambda file: file.write(config))
    return folder


def drop_empty_result(run: Run, folder: Path) -> None:
    """Remove a result folder that was made for a test which has left nothing."""
    kept = [p for p in folder.rglob("*") if p.is_file() and p.name not in (CONFIG, TEST_LOCK)]
    if folder != run.path and not kept:
        shutil.rmtree(folder)


def kept_cases(folder: Path) -> str:
    """What a stopped test has kept in its result folder, for the user."""
    count = len(list((folder / UNFINISHED).glob("*/*.json")))
    return f"; {count} scored cases are kept in {folder}: the same command again goes on" if count else ""


def _begun_test(path: Path, config: str) -> Run | None:
    """The run in this folder, or in one inside it, that a test has begun with these settings and not ended."""
    for folder in (path, *sorted((p for p in path.glob("*") if p.is_dir()), reverse=True)):
        ended = (folder / RESULT).exists() or (folder / CHECKPOINTS).exists()
        if not ended and _is_asked(folder, config) and claim(folder / TEST_LOCK):
            return Run(folder)
    return None


def _is_asked(folder: Path, config: str) -> bool:
    path = folder / CONFIG
    return path.is_file() and path.read_text(encoding="utf-8") == config


def tidy(folder: Path) -> None:
    """Remove what a killed process has left in a run or result folder and nobody needs any more."""
    sweep(folder)
    if (folder / RESULT).exists() and (folder / UNFINISHED).exists() and claim(folder / TEST_LOCK):
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


_CLAIMS: set[Path] = set()


def claim(lock: Path, wait_seconds: float = 0.0) -> bool:
    """Whether this process may do what a lock file stands for: until it ends, no other one that asks may.

    Not released before, since Lightning decides when the last file of a training or test is written.

    Raises:
        DataError: the lock file can't be written.
    """
    path = lock.absolute()
    if path not in _CLAIMS or not path.exists():
        with writing(path):
            if hold(path, wait_seconds) is None:
                return False
        _CLAIMS.add(path)
    return True


def _new_folder(parent: Path, prefix: str = "") -> Path:
    """A new, empty folder called by the time; never one that exists."""
    stamp = f"{prefix}{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while True:
        path = parent / (stamp if number == 1 else f"{stamp}-{number:02d}")
        with writing(path), contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
        number += 1


def _listing() -> str:
    runs = trainings()
    return "; runs that exist: " + ", ".join(str(r.path) for r in runs[-5:]) if runs else ""
