"""The suite: which cells (method on data set) a leaderboard is made of. Needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from samzoo.errors import ConfigError


@dataclass(frozen=True)
class Cell:
    """One entry of the leaderboard.

    Args:
        name: of the entry, unique in its suite; a folder is called by it.
        config: name of a config file, as for `samzoo fit --config`.
        fit: whether it is trained before it is tested.
        settings: further arguments of the command line, for fit and test alike.
    """

    name: str
    config: str
    fit: bool = True
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """The cells of a leaderboard, and the folder in which their runs are."""

    path: Path
    runs: Path
    cells: tuple[Cell, ...]


def read_suite(path: Path) -> Suite:
    """Read a suite: `runs: FOLDER` and `cells: {name: {config: NAME, fit: BOOL, settings: [ARGUMENTS]}}`.

    Raises:
        ConfigError: missing file, not YAML, or a key or value that does not belong; names the cell.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"there is no suite {path}: name one with --suite FILE") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(content.get("cells"), dict) or not content["cells"]:
        raise ConfigError(f"{path} must hold `cells`: a mapping of names to config, fit and settings")
    if unknown := set(content) - {"runs", "cells"}:
        raise ConfigError(f"{path}: unknown key {min(unknown)!r}; known are runs, cells")
    runs = content.get("runs", path.parent / "runs")
    return Suite(path, Path(runs), tuple(_cell(path, str(name), value) for name, value in content["cells"].items()))


def _cell(path: Path, name: str, value: Any) -> Cell:
    where = f"{path}: cell {name!r}"
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"{where}: a name is made of letters, digits, '_', '.' and '-'")
    if not isinstance(value, dict) or not isinstance(value.get("config"), str):
        raise ConfigError(f"{where} must say which `config` it is")
    if unknown := set(value) - {"config", "fit", "settings"}:
        raise ConfigError(f"{where}: unknown key {min(unknown)!r}; known are config, fit, settings")
    settings = value.get("settings", [])
    if not isinstance(settings, list) or not isinstance(value.get("fit", True), bool):
        raise ConfigError(f"{where}: settings must be a list of arguments, fit true or false")
    return Cell(name, value["config"], value.get("fit", True), tuple(str(s) for s in settings))
