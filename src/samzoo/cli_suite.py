"""What a suite asks for: its cells as jobs with a folder and commands each. No torch.

Beside a run's folder lie `<folder>.log` with all that its commands said and, after a failure, `<folder>.failed` with
the reason; they can't lie in it, as a run is never begun in a folder that holds something.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from samzoo import __version__
from samzoo.cli_config import PARTS, SUFFIXES, UsageError, find_config, read_config, read_yaml
from samzoo.errors import ConfigError
from samzoo.leaderboard.suite import Cell, Suite
from samzoo.paths import config_folders
from samzoo.reading import load_yaml
from samzoo.run_folder import Run, tidy
from samzoo.whereabouts import FOLDER, take_last_words

SHIPPED_WEIGHTS = Path(__file__).parent / "weights"
WEIGHTS_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".bin")


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
        except (UsageError, OSError) as error:
            raise ConfigError(f"{suite.path}: cell {cell.name!r}: {error}") from error
        own = [Job(cell, s, Path(f"{folder}-seed{s}") if s else folder) for s in cell.seeds or (None,)]
        for job in own:
            if job.complete:  # its test may have been killed after its last word
                tidy(job.folder)
                take_last_words(job.folder / FOLDER)
        found += own
    return found


def signature(cell: Cell) -> str:
    """Hash of what a cell's result depends on, as far as files tell.

    In it are the settings, every config file and split that they name, weights files that lie here (others count by
    their name), the Python file of a method of one's own, and the versions of samzoo (which stands for all of its code)
    and of the phantom. Not in it are data sets of one's own, and what a method's file imports.
    """
    files: dict[Path, str] = {}
    for option, name in cell.files.items():
        _read(find_config(name, PARTS.get(option.lstrip("-"), "")), files)
    settings = [*cell.settings]
    for i, (option, value) in enumerate(_options(settings)):
        if option in ("config", *PARTS) and value.endswith(SUFFIXES):
            _read(find_config(value, PARTS.get(option, "")), files)
            settings[i] = option  # wherever the file lies
        else:
            _follow(option, _parsed(value), Path(), files)
    parts = [json.dumps([__version__, cell.fit, [*cell.files], settings]), *files.values()]
    if any("phantom" in part for part in parts):
        from samzoo.data import phantom, scenes  # here, as nibabel takes its time

        parts.append(f"phantom {phantom.VERSION}, scenes {scenes.VERSION}")
    return hashlib.sha256("\n---\n".join(parts).encode()).hexdigest()[:10]


def _options(settings: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(option, value) of each word; of `--option value` the second is the value."""
    option = ""
    for word in settings:
        if word.startswith("--"):
            option, _, value = word.removeprefix("--").partition("=")
        else:
            value = word
        yield option, value


def _parsed(value: str) -> Any:
    try:
        return load_yaml(value)
    except ValueError:
        return value


def _read(path: Path, files: dict[Path, str]) -> None:
    """Put the text of a config file, and of what it names, into `files`."""
    if path in files:
        return
    files[path] = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".json":
        return
    content = read_yaml(path)
    files[path] = json.dumps(content, sort_keys=True, default=str)  # comments change no result
    if set(content) & {*PARTS}:
        content = read_config(path)  # complains of parts that are not there
    _follow("", content, path.parent, files)


def _follow(key: str, value: Any, folder: Path, files: dict[Path, str]) -> None:
    """Put the files that a setting names into `files`: configs by their text, weights and code by their hash."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _follow(str(name), inner, folder, files)
    elif isinstance(value, list):
        for inner in value:
            _follow(key, inner, folder, files)
    elif isinstance(value, str):
        last = key.rpartition(".")[2]
        if value.endswith(SUFFIXES):
            if found := _named(value, folder):
                _read(found, files)
        elif last == "weights" or value.endswith(WEIGHTS_SUFFIXES):
            for path in (Path(value).expanduser(), SHIPPED_WEIGHTS / f"{value}.safetensors"):
                if path not in files and path.is_file():
                    files[path] = _hash(path)
        elif last in ("class_path", "model"):
            for path in _code(value):
                files.setdefault(path, _hash(path))


def _hash(path: Path) -> str:
    status = path.stat()
    return _hashed(path, status.st_size, status.st_mtime_ns)


@cache
def _hashed(path: Path, size: int, changed: int) -> str:
    """Of a version of a file once, as cells share weights of gigabytes."""
    with open(path, "rb") as file:
        return f"{size} bytes, {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _code(class_path: str) -> list[Path]:
    """The file of a class that is not samzoo's, as Python would find it; in a package all files of its folder."""
    parts = class_path.split(".")[:-1]
    for count in range(len(parts), 0, -1) if parts[:1] != ["samzoo"] else ():
        for place in (Path(), *map(Path, sys.path)):  # a cell runs in the working folder, see `python -m`
            module = place.joinpath(*parts[:count])
            for file in (module / "__init__.py", module.with_suffix(".py")):
                if file.is_file():
                    package = (file.parent / "__init__.py").is_file()
                    return sorted(file.parent.glob("*.py")) if package else [file]
    return []


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
