"""What a reader may need to be told, its types checked: settings may come from a YAML file as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from samzoo.errors import ConfigError


def check_setting(name: str, value: Any, kind: Any) -> None:
    """Raises ConfigError: the setting's value is not of this type, or a float that is not finite."""
    if not _fits(value, kind):
        words = getattr(kind, "__name__", None) or str(kind).replace("NoneType", "null")
        raise ConfigError(f"data.{name}: {str(value)[:80]!r} does not fit; expected {words}")


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if origin is list:
        return isinstance(value, list) and all(_fits(v, inner[0]) for v in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value is None if kind in (None, NoneType) else type(value) is kind


@dataclass(frozen=True)
class ReadSettings:
    """What a reader may need to be told; every field is an argument of the data module of the same name."""

    layout: str = "auto"
    name: str | None = None
    classes: dict[str, int | list[int]] | None = None
    patient_pattern: str | None = None
    include: str | None = None
    fold: int = 0
    splits_file: str | None = None
    validation_as: Literal["val", "test"] = "val"
    pictures: Literal["auto", "grey", "rgb"] = "auto"
    mask_suffix: str = ""
    mask_threshold: int | None = None
    class_pattern: str | None = None

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            check_setting(name, getattr(self, name), kind)
        for name in ("patient_pattern", "include", "class_pattern"):
            pattern = getattr(self, name)
            try:
                groups = 1 if pattern is None else re.compile(pattern).groups
            except (re.error, RecursionError, OverflowError) as error:
                raise ConfigError(f"data.{name} {pattern!r} is no regular expression: {error}") from None
            if name == "class_pattern" and not groups:
                raise ConfigError(f"data.{name} {pattern!r} must have one group, the name of the class")

    @classmethod
    def pick(cls, settings: Mapping[str, Any]) -> ReadSettings:
        """The reader's part of a data set's YAML; other keys belong to the data module and are left alone.

        Raises:
            ConfigError: a value of another type.
        """
        return cls(**{f.name: settings[f.name] for f in fields(cls) if f.name in settings})
