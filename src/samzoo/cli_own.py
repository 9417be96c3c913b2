"""A leaderboard on a data set of one's own, `samzoo leaderboard --root`: which suite, which runs. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from samzoo.cli_config import PARTS, UsageError, find_config
from samzoo.errors import ConfigError, DataError
from samzoo.leaderboard.suite import Suite, read_suite
from samzoo.paths import find_root
from samzoo.reading import load_yaml
from samzoo.writing import write_atomically

OWN_SUITE, OWN_PICTURES = "own_tiny.yaml", "own_tiny_pictures.yaml"
ROOT_FILE = "runs/root.txt"
"""In the board's folder, but not of what is shown: of which data set it is."""


def settings_of_all(words: Sequence[str], verb: str = "leaderboard") -> list[str]:
    """What is left of the command line, settings of fit and test, as `--name=value`.

    Raises:
        UsageError: something else.
    """
    found: list[str] = []
    for word in words:
        if word.startswith("--"):
            found.append(word)
        elif found and "=" not in found[-1]:
            found[-1] += f"={word}"
        else:
            raise UsageError(f"what is {word!r}? (see `samzoo {verb} --help`)")
    for word in found:
        if word.removeprefix("--").split("=")[0].split(".")[0] not in PARTS or "=" not in word:
            raise UsageError(f"there is no option {word.split('=')[0]} (see `samzoo {verb} --help`)")
    return found


def data_settings(words: Sequence[str]) -> dict[str, Any]:
    """Those of `settings_of_all` that are the data set's, by name.

    Raises:
        UsageError: a value that is no YAML.
    """
    found: dict[str, Any] = {}
    for word in words:
        if word.startswith("--data."):
            name, _, value = word.removeprefix("--data.").partition("=")
            try:
                found[name] = load_yaml(value)
            except ValueError as error:
                raise UsageError(f"data.{name}: {value[:80]!r} is not valid YAML: {error}") from None
    return found


def with_settings(suite: Suite, common: Sequence[str], minutes: float | None) -> Suite:
    """The suite with settings of all its cells, and so many minutes for those that are trained."""
    trained: list[str] = []
    if minutes is not None:
        whole, seconds = divmod(max(1, round(60 * minutes)), 60)
        days, hours = divmod(whole // 60, 24)
        trained = [f"--trainer.max_time={days:02d}:{hours:02d}:{whole % 60:02d}:{seconds:02d}"]
    cells = [replace(c, settings=(*c.settings, *common, *(trained if c.fit else ()))) for c in suite.cells]
    return replace(suite, cells=tuple(cells))


def own_suite(name: str | None, root: str, out: Path, common: Sequence[str]) -> Suite:
    """The suite of this name on a data set; without a name by what it holds, volumes or pictures.

    Its runs lie in a folder of their own for each state of the data: a changed file is another one.

    Args:
        out: the board's folder.
        common: settings of all cells.

    Raises:
        DataError: there is no such folder. UsageError: no such suite, or the board is of another data set.
    """
    from samzoo.data.index import PICTURE_ENDINGS  # here, as nibabel takes its time
    from samzoo.data.store import digest, source_signature

    folder = find_root(root).resolve()
    _claim(out, folder)
    try:
        entries = _entries(folder, common)
        state = digest([source_signature(entry) for entry in entries])
        pictures = entries[0].images[0].name.lower().endswith(PICTURE_ENDINGS)
    except (DataError, ConfigError):
        state, pictures = "unread", False  # the cells tell what is wrong
    name = name or (OWN_PICTURES if pictures else OWN_SUITE)
    suite = read_suite(path if (path := Path(name)).is_file() else find_config(name, "suites"))
    cells = [replace(c, settings=(*c.settings, f"--data.root={folder}")) for c in suite.cells]
    return replace(suite, cells=tuple(cells), runs=out / "runs" / state)


def _entries(folder: Path, common: Sequence[str]) -> Sequence[Any]:
    """The data set's cases, read as the command line says."""
    from samzoo.data.index import ReadSettings
    from samzoo.data.readers import read_index

    return read_index(folder, ReadSettings.pick(data_settings(common))).entries


def _claim(out: Path, folder: Path) -> None:
    """Raises UsageError: the board's folder is one of another data set, or no folder of a board."""
    file = out / ROOT_FILE
    if file.is_file():
        if (other := file.read_text(encoding="utf-8").strip()) != str(folder):
            raise UsageError(f"{out} is the board of {other}, not of {folder}: name another folder with --out")
        return
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} holds something else than a board of {folder}: name another folder with --out")
    write_atomically(file, lambda opened: opened.write(f"{folder}\n"))
