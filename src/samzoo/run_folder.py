"""Run folders: where a fit or a test writes, and how the newest one is found again. No torch.

A run is `runs/<name>/<time stamp>/`; a training has a `checkpoints` folder in it, a zero-shot test has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from samzoo.errors import ConfigError
from samzoo.writing import keep_older, write_atomically

RUNS = Path("runs")
CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
RESULT = "records.csv"
RUN_VARIABLE = "SAMZOO_RUN_FOLDER"
RESULT_VARIABLE = "SAMZOO_RESULT_FOLDER"
"""They tell the processes that Lightning starts for DDP which folders the first one made."""


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
    def best(self) -> Path | None:
        """Best by validation Dice, else the last complete epoch, else what Ctrl-C left."""
        for name in ("best", "last", "interrupted"):
            if (path := self.checkpoints / f"{name}.ckpt").is_file():
                return path
        return None


def create(name: str) -> Run:
    """A new, empty folder `runs/<name>/<time stamp>`."""
    return Run(_new_folder(RUNS / name))


def given(path: Path, new: bool = False) -> Run:
    """The run in the folder that the user named.

    Raises:
        ConfigError: it must be new but is not empty, or it must be a run but holds no config.yaml.
    """
    if new:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} exists already and is never overwritten: name a new folder, or use --resume")
        path.mkdir(parents=True, exist_ok=True)
    elif not (path / CONFIG).is_file():
        raise ConfigError(f"{path} is not a run folder: it holds no {CONFIG}{_listing()}")
    return Run(path)


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
    """Where a test of this run writes: the run itself, or a new `test-<time stamp>` in it with a config of its own.

    Args:
        run: what is tested.
        config: text of the settings of this test; other ones than the run's are not mixed with its own result.
    """
    if not (run.path / RESULT).exists() and run.config.is_file() and run.config.read_text() == config:
        return run.path
    folder = _new_folder(run.path, "test-")
    write_atomically(folder / CONFIG, lambda file: file.write(config))
    return folder


def _new_folder(parent: Path, prefix: str = "") -> Path:
    """A new, empty folder called by the time; never one that exists."""
    stamp = f"{prefix}{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while True:
        path = parent / (stamp if number == 1 else f"{stamp}-{number:02d}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1


def _listing() -> str:
    runs = trainings()
    return "; runs that exist: " + ", ".join(str(r.path) for r in runs[-5:]) if runs else ""
