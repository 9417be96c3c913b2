"""The suite: which cells (method on data set) a leaderboard is made of. Needs no torch.

A suite of your own, say `mine.yaml`, for `make leaderboard SUITE=mine.yaml`:

    data: my_data.yaml                    # the data set of every cell that names a method instead of a whole config
    settings: [--trainer=trainer/gpu.yaml, --trainer.max_epochs=30]          # of every cell; a cell's own come after
    seeds: [0, 1, 2]                      # a trained cell is fitted and tested once with each; default [0]
    cells:
      sam: {method: sam.yaml, fit: false} # tested as it is
      sam_med2d: {method: sam_med2d.yaml, settings: [--trainer.max_time=00:02:00:00]}   # two hours at most
      unet: {method: unet.yaml, seeds: [0]}
      reference: {config: unet_hippocampus.yaml, settings: [--data=my_data.yaml]}

These files are looked up beside the suite first, then as `samzoo fit` does; other paths are relative to the working
folder, `runs: FOLDER` too, which says where the runs are (default: `runs` beside the suite). A cell runs again once its
settings or files have changed, see `samzoo.cli_suite.signature`; to run it again for another reason, delete its folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samzoo.errors import ConfigError
from samzoo.reading import load_yaml

KEYS = ("runs", "data", "settings", "seeds", "cells")
FILE = re.compile(r"(--(?:config|model|data|trainer|protocol)=)(.+\.(?:yaml|yml))")
"""A setting that is a config file."""
CELL_KEYS = ("config", "method", "data", "fit", "settings", "seeds")


@dataclass(frozen=True)
class Cell:
    """One entry of the leaderboard: a config, or a method on a data set.

    Args:
        name: of the entry, unique in its suite; a folder is called by it.
        config: name of a config file, as for `samzoo fit --config`.
        method, data: of the method's and the data set's file, as for `samzoo fit --model` and `--data`.
        fit: whether it is trained before it is tested.
        settings: further arguments of the command line, for fit and test alike.
        seeds: of the trainings; empty where nothing is trained.
    """

    name: str
    config: str = ""
    method: str = ""
    data: str = ""
    fit: bool = True
    settings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)

    @property
    def files(self) -> dict[str, str]:
        """Option of the command line -> file, of all that the cell names."""
        named = {"--config": self.config, "--model": self.method, "--data": self.data}
        return {option: name for option, name in named.items() if name}


@dataclass(frozen=True)
class Suite:
    """The cells of a leaderboard, and the folder in which their runs are."""

    path: Path
    runs: Path
    cells: tuple[Cell, ...]


def read_suite(path: Path) -> Suite:
    """Read a suite, see above.

    Raises:
        ConfigError: missing file, not YAML, or a key or value that does not belong; names the cell.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"there is no suite {path}: name one with --suite FILE") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("cells"), dict) or not content["cells"]:
        raise ConfigError(f"{path} must hold `cells`: a mapping of names to {', '.join(CELL_KEYS)}")
    _check(str(path), content, KEYS)
    runs = Path(content["runs"]) if "runs" in content else path.parent / "runs"
    return Suite(path, runs, tuple(_cell(path, str(name), cell, content) for name, cell in content["cells"].items()))


def _cell(path: Path, name: str, value: Any, common: Mapping[str, Any]) -> Cell:
    where = f"{path}: cell {name!r}"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"{where}: a name is made of letters, digits, '_', '.' and '-'")
    if not isinstance(value, dict) or ("config" in value) == ("method" in value):
        raise ConfigError(f"{where} must say which `config` it is, or which `method`, and not both")
    _check(where, value, CELL_KEYS)
    fit = value.get("fit", True)
    if not fit and "seeds" in value:
        raise ConfigError(f"{where}: seeds are of a training, and fit is false")
    own = value if "config" in value else {"data": common.get("data"), **value}
    if not own.get("data") and "method" in value:
        raise ConfigError(f"{where} must say on which `data` the method is, here or for the whole suite")
    files = {key: _beside(path, own[key]) for key in ("config", "method", "data") if own.get(key)}
    settings = [str(s) for s in (*common.get("settings", []), *value.get("settings", []))]
    settings = [m[1] + _beside(path, m[2]) if (m := FILE.fullmatch(s)) else s for s in settings]
    seeds = value.get("seeds", common.get("seeds", [0])) if fit else ()
    return Cell(name, fit=fit, settings=tuple(settings), seeds=tuple(seeds), **files)


def _check(where: str, content: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Keys and the types of their values."""
    if unknown := {str(key) for key in content} - {*known}:
        raise ConfigError(f"{where}: unknown key {min(unknown)!r}; known are {', '.join(known)}")
    for key in ("runs", "config", "method", "data"):
        if key in content and not (isinstance(content[key], str) and content[key]):
            raise ConfigError(f"{where}: {key} must be the name of a {'folder' if key == 'runs' else 'file'}")
    if not isinstance(content.get("settings", []), list) or not isinstance(content.get("fit", True), bool):
        raise ConfigError(f"{where}: settings must be a list of arguments, fit true or false")
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        raise ConfigError(f"{where}: seeds must be a list of numbers from 0 on, such as [0, 1, 2]")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{where}: a seed is there twice in {seeds}")


def _beside(path: Path, name: str) -> str:
    return str(path.parent / name) if (path.parent / name).is_file() else name
