"""The parser of fit, validate, test and predict: config files by name, and errors as one message."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ActionConfigFile
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

import samzoo.methods  # noqa: F401  makes every method known by its class name
from samzoo.cli_config import SETTINGS, SUFFIXES, UsageError, explain, find_config, read_config
from samzoo.data import SamzooDataModule
from samzoo.evaluation import EvaluationProtocol
from samzoo.methods.base import Method


def concrete_methods(base: type = Method) -> dict[str, type]:
    """All methods that can be built, by class name."""
    found = {base.__name__: base} if hasattr(base, "spec") else {}
    for child in base.__subclasses__():
        found |= concrete_methods(child)
    return found


def all_settings() -> list[str]:
    """Dotted names of all settings, for near matches."""
    owners = [("trainer", Trainer), ("data", SamzooDataModule), ("protocol", EvaluationProtocol)]
    owners += [("model.init_args", method) for method in concrete_methods().values()]
    names = [f"{key}.{p}" for key, owner in owners for p in inspect.signature(owner).parameters]
    for name, hint in get_type_hints(SamzooDataModule.__init__).items():
        groups = [kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)]
        names += [f"data.{name}.{f.name}" for group in groups for f in fields(group)]
    return sorted({"model.class_path", *SETTINGS, *names})


def check_groups(data: Any) -> None:
    """Raises UsageError: a list, which the parser takes in silence, in place of the settings of a group of `data`."""
    for group in sorted({name.rsplit(".", 1)[0] for name in all_settings() if re.match(r"data\.\w+\.", name)}):
        if isinstance(data.get(group.removeprefix("data.")), list):
            raise UsageError(f"{group} must hold settings (name: value), but holds a list")


@dataclass
class Line:
    """What parsers need to know of the command line.

    Args:
        args: all of it.
        replaced: parts that it gives as a file; what config files say of them is left out.
        known: names of samzoo's own options, for near matches.
        sources: the config files read so far, so that a message can name the one that is wrong.
    """

    args: Sequence[str] = ()
    replaced: frozenset[str] = frozenset()
    known: Sequence[str] = ()
    sources: list[Path] = field(default_factory=list)

    def file_with(self, text: str) -> str:
        """The config file that holds what a message complains of, if the command line itself doesn't."""
        quoted = re.search(r"'([\w.]+)'", text)
        word = quoted[1].rsplit(".")[-1] if quoted else ""
        if not word or any(word in arg for arg in self.args):
            return ""
        where = re.compile(rf"\b{word}['\"]?\s*:|:\s*['\"]?{word}\b")
        return next((f"{path}: " for path in self.sources if where.search(path.read_text())), "")


class Parser(LightningArgumentParser):
    """Ends in one readable message instead of a page of usage."""

    def __init__(self, *args: Any, line: Line | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.line = line or Line()

    def error(self, message: str, ex: Exception | None = None) -> Any:
        if not self.exit_on_error:
            return super().error(message, ex)
        text = explain(message, [*all_settings(), *self.line.known], concrete_methods())
        raise UsageError(f"{self.line.file_with(text)}{text}") from ex


class ConfigFile(ActionConfigFile):
    """A config by bare name; files named in it are looked up beside it first, then as bare names."""

    def __call__(self, parser: Parser, cfg: Any, values: str, option_string: str | None = None) -> None:
        path = find_config(values)
        content = {key: v for key, v in read_config(path).items() if key.split(".")[0] not in parser.line.replaced}
        parser.line.sources += [
            path,
            *(Path(v) for v in content.values() if isinstance(v, str) and v.endswith(SUFFIXES)),
        ]
        parts = {key: value for key, value in content.items() if "." not in key}
        single = {key: value for key, value in content.items() if "." in key}  # over what the part's file says
        try:
            for layer in (parts, single):
                super().__call__(parser, cfg, yaml.safe_dump(layer), option_string)
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError(f"{path}: {explain(str(error), all_settings(), concrete_methods())}") from error
