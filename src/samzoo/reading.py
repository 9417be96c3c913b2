"""Texts of other people: JSON and YAML that are ambiguous, endless or no plain data are refused; how names are shown.

No torch.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import yaml

MAX_NODES = 100_000
"""Of a YAML text once its aliases are written out; ten lines of aliases can stand for gigabytes."""
MAX_DEPTH = 100


def load_json(text: str, constants: bool = False) -> Any:
    """What a JSON text holds.

    Args:
        constants: whether NaN and Infinity, which are no JSON, are numbers.

    Raises:
        ValueError: no JSON, a name twice in one object, a number of thousands of digits, or too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=None if constants else _constant)
    except RecursionError:
        raise ValueError("lists and objects lie too deep in each other") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} stands twice in one object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def load_yaml(text: str) -> Any:
    """What a YAML text of plain data holds.

    Raises:
        ValueError: no YAML, a key twice in one mapping, a tag of other than plain data, too deep or too long.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("lists and mappings lie too deep in each other") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"a value can't be read ({' '.join(str(error).split()) or type(error).__name__})") from None


class _Loader(yaml.SafeLoader):
    """Refuses what PyYAML takes in silence, or hours for."""

    def fetch_flow_collection_start(self, token: type) -> None:
        if self.flow_level > MAX_DEPTH:  # its time grows with the square of the depth
            raise yaml.YAMLError("lists and mappings lie too deep in each other")
        super().fetch_flow_collection_start(token)

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, ())
        return node


for kind in ("binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", _Loader.construct_undefined)


def _count(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Nodes below and with a node, aliases written out."""
    if id(node) in above:
        raise yaml.YAMLError(f"an alias stands for what it is in {node.start_mark}")
    if len(above) > MAX_DEPTH:
        raise yaml.YAMLError("lists and mappings lie too deep in each other")
    if id(node) not in known:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := {key for key in keys if keys.count(key) > 1}:
                raise yaml.YAMLError(f"the key {min(twice)!r} stands twice in one mapping {node.start_mark}")
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        below = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_count(part, known, (*above, id(node))) for part in below)
        if known[id(node)] > MAX_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_NODES} values")
    return known[id(node)]


def printable(text: str) -> str:
    """A text in which line breaks, control characters, those that turn the direction, and stray bytes are escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escape(c) for c in text)


def one_line(text: str) -> str:
    """As `printable`, but line breaks and tabs are a space."""
    return printable(re.sub(r"[\t-\r\x1c-\x1f\x85\u2028\u2029]+", " ", text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def some(names: Sequence[str], most: int) -> str:
    """The first names, for a message: `a, b and 7 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
