"""What a suite asks for: its cells as jobs with a folder and commands each. No torch.

Beside a run's folder lie `<folder>.log` with all that its commands said and, after a failure, `<folder>.failed` with
the reason; they can't lie in it, as a run is never begun in a folder that holds something.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samzoo import __version__
from samzoo.cli_config import PARTS, SUFFIXES, UsageError, find_config, read_config, read_yaml
from samzoo.errors import ConfigError
from samzoo.leaderboard.suite import Cell, Suite
from samzoo.paths import config_folders
from samzoo.run_folder import Run


@dataclass(frozen=True)
class Job:
    """One cell with one seed.

    Args:
        seed: of its training; None where nothing is trained.
        folder: of its run; other settings are another folder, so that no result is overwritten or mistaken.
    """

    cell: Cell
    seed: int | None
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.cell.name}, seed {self.seed}" if len(self.cell.seeds) > 1 else self.cell.name

    @property
    def complete(self) -> bool:
        return (self.folder / "records.csv").is_file() and (self.folder / "run.json").is_file()

    @property
    def log(self) -> Path:
        return Path(f"{self.folder}.log")

    @property
    def failure(self) -> Path:
        return Path(f"{self.folder}.failed")

    def why_missing(self) -> str:
        """Why there is no result."""
        if self.failure.is_file():
            return "failed: " + " ".join(self.failure.read_text(encoding="utf-8").split())
        return "begun, not finished" if self.folder.exists() else "not run yet"


def jobs(suite: Suite) -> list[Job]:
    """All runs that a suite asks for.

    Raises:
        ConfigError: a cell names a file that is not there, or that can't be read.
    """
    found = []
    for cell in suite.cells:
        try:
            folder = suite.runs / f"{cell.name}-{signature(cell)}"
        except UsageError as error:
            raise ConfigError(f"{suite.path}: cell {cell.name!r}: {error}") from error
        found += [Job(cell, s, Path(f"{folder}-seed{s}") if s else folder) for s in cell.seeds or (None,)]
    return found


def signature(cell: Cell) -> str:
    """Hash of all that a cell's result depends on: settings, every config file in it, the versions of samzoo and of
    the phantom. The rest of the code is not in it."""
    files: dict[Path, str] = {}
    for option, name in cell.files.items():
        _read(find_config(name, PARTS.get(option.lstrip("-"), "")), files)
    for setting in cell.settings:
        if setting.endswith(SUFFIXES):
            option, _, name = setting.rpartition("=")
            _read(find_config(name, PARTS.get(option.lstrip("-"), "")), files)
    parts = [json.dumps([__version__, cell.fit, [*cell.files], cell.settings]), *files.values()]
    if any("phantom" in part for part in parts):
        from samzoo.data import phantom, scenes  # here, as nibabel takes its time

        parts.append(f"phantom {phantom.VERSION}, scenes {scenes.VERSION}")
    return hashlib.sha256("\n---\n".join(parts).encode()).hexdigest()[:10]


def _read(path: Path, files: dict[Path, str]) -> None:
    """Put the text of a config file, and of each file that it names, into `files`."""
    if path in files:
        return
    files[path] = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return
    content = read_yaml(path)
    if set(content) & {*PARTS}:
        content = read_config(path)  # complains of parts that are not there
    for name in _texts(content):
        if name.endswith(SUFFIXES) and (found := _named(name, path.parent)):
            _read(found, files)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _named(name: str, folder: Path) -> Path | None:
    """The file of this name; None if it is none of the configs' (a data set may bring its own splits)."""
    places = [folder, *(above / kind for above in config_folders() for kind in ("", *PARTS.values(), "splits"))]
    return next((path for place in places if (path := place / name).is_file()), None)


def commands(job: Job) -> list[list[str]]:
    """The samzoo commands that are still to be run; an interrupted run is taken up again."""
    cell = job.cell
    where, begun = ["--run", str(job.folder)], Run(job.folder).config.is_file()
    files = [word for pair in cell.files.items() for word in pair]
    config = [] if begun else [*files, "--trainer.enable_progress_bar=false", *cell.settings]
    if not cell.fit:
        return [["test", *config, "--zero-shot", *where]]
    seed = [] if begun else [f"--seed_everything={job.seed}"]
    return [["fit", *config, *seed, *["--resume"] * begun, *where], ["test", *where]]
