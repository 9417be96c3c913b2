"""Config files by bare name, and parse errors as one readable message. No torch.

A bare name is looked for in the working folder, its `configs/`, `$SAMZOO_CONFIGS`, then among the configs that are
shipped with the package.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from samzoo.errors import ConfigError
from samzoo.paths import config_folders
from samzoo.reading import load_yaml

SUFFIXES = (".yaml", ".yml", ".json")

PARTS = {"model": "methods", "data": "datasets", "trainer": "trainer", "protocol": "protocol"}
"""Settings that may be a file of their own, and the sub-folder of configs/ where such files are."""

SETTINGS = ("seed_everything", *PARTS)
"""All top-level settings of a config file."""


class UsageError(ConfigError):
    """The command line or a config file says something that can't be (exit code 2)."""


def near(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known words that are most similar; dotted ones also by their last part, paths also by their last."""
    parts: dict[str, list[str]] = {}
    for name in sorted(set(known)):
        for key in {name.lower(), _last(name)}:
            parts.setdefault(key, []).append(name)
    scored: dict[str, float] = {}
    for key, names in parts.items():
        for wanted in {word.lower(), _last(word)}:
            score = difflib.SequenceMatcher(None, wanted, key).ratio()
            for name in names:
                same_head = name.startswith(word[: max(word.rfind("."), word.rfind("/")) + 1])
                scored[name] = max(scored.get(name, 0), score + 0.05 * same_head)
    best = max(scored.values(), default=0)
    found = [n for n in sorted(scored, key=lambda n: -scored[n]) if scored[n] >= max(0.65, best - 0.1)]
    return found[:count]


def _last(name: str) -> str:
    return Path(name).stem.lower() if name.endswith(SUFFIXES) else name.rsplit(".", 1)[-1].lower()


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    found = near(word, known)
    return f"; did you mean {' or '.join(found)}?" if found else otherwise


def find_config(name: str, kind: str = "") -> Path:
    """The config file of this name.

    Args:
        name: a path, or a name such as `sam_phantom.yaml` or `methods/sam.yaml`; the suffix may be left out.
        kind: sub-folder that is searched as well ("methods", "datasets", "trainer").

    Raises:
        UsageError: there is none; the message lists the folders and the nearest names.
    """
    names = [name] if name.endswith(SUFFIXES) else [f"{name}.yaml", name]
    if kind:  # first, for a method's part and the whole config for data of one's own have the same name
        names = [*(f"{kind}/{n}" for n in names), *names]
    for folder in config_folders():
        for candidate in names:
            if (path := folder / candidate).is_file():
                return path.absolute()
    folders = [f for f in config_folders() if f.is_dir()]
    wanted = name if name.endswith(SUFFIXES) else f"{name}.yaml"
    # the working folder itself is listed flat: it may hold anything, and a deep search would take its time
    known = [str(p.relative_to(f)) for f in folders for p in (f.glob("*.yaml") if f == Path() else f.rglob("*.yaml"))]
    places = ", ".join(str(f.absolute()) for f in folders)
    listing = f"; known are {', '.join(sorted(p for p in set(known) if kind in p or not kind))}"
    raise UsageError(f"there is no config file {name!r} in {places}{did_you_mean(wanted, known, listing)}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A config file as a dictionary.

    Raises:
        UsageError: not YAML, or not a mapping.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold settings (name: value), but holds a {type(content).__name__}")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """A config file whose parts are given as absolute paths: looked up beside the file first, then as bare names.

    Raises:
        UsageError: not YAML, an unknown key, a part that is not there; names the file.
    """
    content = read_yaml(path)
    for key in content:
        if str(key).split(".")[0] not in SETTINGS:
            hint = did_you_mean(str(key), SETTINGS, f"; known are {', '.join(SETTINGS)}")
            raise UsageError(f"{path}: there is no setting {key!r}{hint}")
    for part, kind in PARTS.items():
        if isinstance(name := content.get(part), str) and name.endswith(SUFFIXES):
            beside = path.parent / name
            try:
                content[part] = str(beside.absolute() if beside.is_file() else find_config(name, kind))
                read_yaml(Path(content[part]))  # refuses what the parser would take in silence
            except UsageError as error:
                raise UsageError(f"{path}: {part}: {error}") from error
    return content


# --- jsonargparse's messages, for people -----------------------------------------------------------------------------

_UNKNOWN = re.compile(
    r"[Oo]ption '(?P<a>[\w.]+)' is not accepted|does not accept option '(?P<b>[\w.]+)'"
    r"|unrecognized arguments: (?:--)?(?P<c>[^\s=]+)|Key '(?P<d>[\w.]+)' is not expected"
)
_KEY = re.compile(r'Parser key "(?P<key>[\w.]+)":')
_CLASS = re.compile(r"(?:Expected a dot import path string|Unexpected import path format): (?P<name>\S+)")
_NO_FILE = re.compile(r"Expected a path but (?P<name>\S+) either not accessible or invalid")
_VALUE = re.compile(r"(?:Got value|Given value): (?P<value>.*)")
_EXPECTED = re.compile(r"Expected (?:a|one of|to be)?\s*(?P<what>.*?)(?:\. Got value.*)?$", re.M)


def explain(message: str, settings: Iterable[str], classes: Iterable[str]) -> str:
    """One readable message for what jsonargparse complained of.

    Args:
        message: jsonargparse's own, of one or many lines.
        settings: all dotted names of settings.
        classes: names of the methods.
    """
    inside = "Problem with given class_path" in message
    if inside:  # what follows only says that null would do as well
        message = message.split("\n    - Expected a <class 'NoneType'>")[0]
    keys = [m["key"] for m in _KEY.finditer(message)]
    where = keys[-1] if keys else ""
    if "are required: " in message:
        missing = message.split("are required: ")[1].split(".")[-1]
        return f"nothing says which {missing} to use: give --config NAME.yaml, or --{missing} (see `samzoo zoo`)"
    if unknown := _UNKNOWN.search(message):
        name = next(g for g in unknown.groups() if g)
        name = name if "." in name or not keys else f"{where}.{'init_args.' * (where == 'model')}{name}"
        return f"there is no setting {name!r}{did_you_mean(name, settings, '; `--help-all` lists them all')}"
    if (wrong := _NO_FILE.search(message)) and wrong["name"].endswith(SUFFIXES):
        return f"{where}: there is no config file {wrong['name']!r}"
    if wrong := _CLASS.search(message):
        name = wrong["name"].strip("'\"")
        known = sorted(classes)
        return (
            f"{where or 'model'}: there is no method {name!r}{did_you_mean(name, known)} Known are {', '.join(known)}"
        )
    if value := _VALUE.search(message):
        kinds = dict.fromkeys(_plain(m["what"]) for m in _EXPECTED.finditer(message) if "path but" not in m["what"])
        expected = " or ".join(k for k in kinds if k) or "something else"
        full = [s for s in settings if s.endswith(f".{where}")]
        name = full[0] if full and "." not in where else where
        return f"{name}: {value['value'].strip()!r} does not fit; expected {expected}"
    return " ".join(message.split())


def _plain(kind: str) -> str:
    """<class 'int'> -> int"""
    kind = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", kind.strip())
    return kind.replace("NoneType", "null")
