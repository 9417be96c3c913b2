"""Strategies of mutants: of bytes, of JSON and YAML texts, of objects."""

from __future__ import annotations

import copy
import json
from typing import Any

from fuzz_harness import Mutant
from hypothesis import strategies as st

ODD_BYTES = (b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0" * 8, b"\xff" * 8, b"\x00\x00\xc0\x7f")


def byte_mutants(raw: bytes, checksum: bool = False) -> st.SearchStrategy[Mutant]:
    """Flipped, cut, inserted, removed, repeated and overwritten bytes.

    Args:
        checksum: the format has one, so that whatever is changed is bad; otherwise only what is cut.
    """
    place = st.integers(0, len(raw) - 1)
    length = st.integers(1, max(1, min(64, len(raw) // 4)))

    def flip(drawn: tuple[int, int]) -> Mutant:
        at, by = drawn
        return Mutant(f"byte {at} ^ {by}", raw[:at] + bytes([raw[at] ^ by]) + raw[at + 1 :], checksum)

    def cut(at: int) -> Mutant:
        return Mutant(f"cut to {at} bytes", raw[:at], True)

    def remove(drawn: tuple[int, int]) -> Mutant:
        at, n = drawn
        return Mutant(f"{n} bytes removed at {at}", raw[:at] + raw[at + n :], checksum)

    def repeat(drawn: tuple[int, int]) -> Mutant:
        at, n = drawn
        return Mutant(f"{n} bytes repeated at {at}", raw[: at + n] + raw[at:], checksum)

    def overwrite(drawn: tuple[int, bytes]) -> Mutant:
        at, odd = drawn
        return Mutant(f"{odd.hex()} at {at}", raw[:at] + odd + raw[at + len(odd) :], checksum)

    return st.one_of(
        st.tuples(place, st.integers(1, 255)).map(flip),
        place.map(cut),
        st.tuples(place, length).map(remove),
        st.tuples(place, length).map(repeat),
        st.tuples(place, st.sampled_from(ODD_BYTES)).map(overwrite),
    )


JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 256, 1.5, -0.0, 1e308, 10**30, -(10**30)),
    *("", "a", "..", "../../x", "/", "\0", "x" * 300, "\ud800", "\u202egnp.x", "<b>", "=1+1", "1", "nan"),
    *([], {}, [[]], [None], {"a": None}, {"": ""}, [1, 2, 3], ["a", "a"], {"0": 0}),
)
NOT_JSON: tuple[str, ...] = ("NaN", "Infinity", "-Infinity", "9" * 5000, "[" * 100000, "1e999999", "'a'", "0x10")
"""Texts in the place of a value; all of them are bad where the value counts."""


def paths_of(value: Any, above: tuple = ()) -> list[tuple]:
    """Of every node of an object, the root first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(path for key, node in inner for path in paths_of(node, (*above, key)))]


def replaced(value: Any, path: tuple, new: Any) -> Any:
    """A copy with another node."""
    if not path:
        return new
    value = copy.deepcopy(value)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = new
    return value


def removed(value: Any, path: tuple) -> Any:
    value = copy.deepcopy(value)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return value


def object_mutants(value: Any) -> st.SearchStrategy[Mutant]:
    """Of an object of JSON: a node that is something else, is missing, or is wrapped. None is bad in itself."""
    paths = st.sampled_from(paths_of(value))
    inner = st.sampled_from([p for p in paths_of(value) if p])
    node = st.recursive(
        st.sampled_from(JUNK) | st.integers() | st.floats() | st.text(max_size=8),
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
        max_leaves=4,
    )

    def wrapped(path: tuple) -> Any:
        old = value
        for key in path:
            old = old[key]
        return replaced(value, path, [old])

    return st.one_of(
        st.tuples(paths, node).map(lambda d: Mutant(f"{d[0]} = {d[1]!r}", replaced(value, *d))),
        inner.map(lambda p: Mutant(f"{p} is missing", removed(value, p))),
        paths.map(lambda p: Mutant(f"{p} in a list", wrapped(p))),
    )


def json_mutants(value: Any) -> st.SearchStrategy[Mutant]:
    """Texts (bytes) of JSON: mutants of the object, and what only a text can have."""
    text = json.dumps(value)
    paths = st.sampled_from([p for p in paths_of(value) if p])
    keyed = [p for p in paths_of(value) if p and isinstance(p[-1], str)]
    mark = "#mark#"

    def with_text(drawn: tuple[tuple, str]) -> Mutant:
        path, odd = drawn
        return Mutant(
            f"{path} = {odd[:12]}", json.dumps(replaced(value, path, mark)).replace(f'"{mark}"', odd).encode()
        )

    def twice(drawn: tuple[tuple, Any]) -> Mutant:
        path, other = drawn
        old = value
        for key in path:
            old = old[key]
        pair = f"{json.dumps(path[-1])}: {json.dumps(old)}"
        both = f"{json.dumps(path[-1])}: {json.dumps(other)}, {pair}"
        # the first of the two is another value: which of them is meant?
        holder = json.dumps(replaced(value, path, mark)).replace(f'{json.dumps(path[-1])}: "{mark}"', both, 1)
        return Mutant(f"{path} twice, first {other!r}", holder.encode(), bad=True)

    def twice_last(drawn: tuple[tuple, Any]) -> Mutant:
        path, other = drawn
        old = value
        for key in path:
            old = old[key]
        both = f"{json.dumps(path[-1])}: {json.dumps(old)}, {json.dumps(path[-1])}: {json.dumps(other)}"
        holder = json.dumps(replaced(value, path, mark)).replace(f'{json.dumps(path[-1])}: "{mark}"', both, 1)
        return Mutant(f"{path} twice, last {other!r}", holder.encode(), bad=True)

    encodings = [
        Mutant("BOM", b"\xef\xbb\xbf" + text.encode(), True),
        Mutant("UTF-16", text.encode("utf-16"), True),
        Mutant("UTF-32", text.encode("utf-32"), True),
        Mutant("Latin-1", text.replace('"', '"\xfc', 1).encode("latin-1"), True),
        Mutant("deep", ('{"a":' * 100000).encode(), True),
        Mutant("deep lists", b"[" * 100000 + b"]" * 100000, True),
        Mutant("empty", b"", True),
        Mutant("NUL", b"\0" * 100, True),
    ]
    return st.one_of(
        object_mutants(value).map(lambda m: Mutant(m.what, json.dumps(m.content).encode(), m.bad)),
        st.tuples(paths, st.sampled_from(NOT_JSON)).map(with_text),
        st.tuples(st.sampled_from(keyed), st.sampled_from(JUNK)).map(twice),
        st.tuples(st.sampled_from(keyed), st.sampled_from(JUNK)).map(twice_last),
        st.integers(0, len(text) - 1).map(lambda n: Mutant(f"cut to {n}", text[:n].encode(), True)),
        st.sampled_from(encodings),
    )


YAML_TRAPS = [
    Mutant(
        "billion laughs",
        "a: &a [x, x, x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)),
        True,
    ),
    Mutant("recursive alias", "cells: &a\n  b: *a\n", True),
    Mutant("recursive list", "settings: &a [*a]\n", True),
    Mutant("python tag", "cells: !!python/object/apply:os.system ['true']\n", True),
    Mutant("python name", "cells: !!python/name:os.system\n", True),
    Mutant("own tag", "cells: !x {a: 1}\n", True),
    Mutant("deep", "[" * 20000, True),
    Mutant("deep mapping", "{a: " * 5000, True),
    Mutant("huge number", "seeds: [" + "9" * 5000 + "]\n", True),
    Mutant("bad date", "data: 2001-99-99\n", True),
    Mutant("bad time", "data: 2001-01-01 99:99:99\n", True),
    Mutant("bad int tag", "data: !!int ''\n", True),
    Mutant("bad float tag", "data: !!float 'x'\n", True),
    Mutant("bad bool tag", "data: !!bool 'x'\n", True),
    Mutant("binary tag", "data: !!binary '*'\n", True),
    Mutant("list as key", "? [a, b]\n: 1\n", True),
    Mutant("mapping as key", "? {a: b}\n: 1\n", True),
    Mutant("number as key", "1: 2\n", True),
    Mutant("null as key", "~: 2\n", True),
    Mutant("two documents", "a: 1\n---\nb: 2\n", True),
    Mutant("tab", "a:\n\t- b\n", True),
    Mutant("control character", "a: \x07\n", True),
    Mutant("bad merge", "<<: 3\na: 1\n", True),
    Mutant("unknown alias", "a: *b\n", True),
    Mutant("list", "[1, 2]\n", True),
    Mutant("word", "hello\n", True),
    Mutant("value tag", "=: 1\n", True),
]
"""Texts that are bad as any of samzoo's YAML files."""


def yaml_mutants(text: str, value: Any) -> st.SearchStrategy[Mutant]:
    """Texts of YAML: mutants of the object, of the bytes, repeated lines, and the traps."""
    import yaml

    lines = text.splitlines(keepends=True)
    tops = [i for i, line in enumerate(lines) if ":" in line and not line.startswith((" ", "-", "#"))]

    def doubled(i: int) -> Mutant:
        key = lines[i].split(":")[0]
        return Mutant(f"{key} twice", f"{text}{key}: other\n", True)

    return st.one_of(
        object_mutants(value).map(lambda m: Mutant(m.what, _dumped(yaml, m.content), m.bad)),
        byte_mutants(text.encode()).map(lambda m: Mutant(m.what, m.content, False)),
        st.sampled_from(tops).map(doubled),
        st.sampled_from(YAML_TRAPS),
    ).map(lambda m: Mutant(m.what, m.content.encode() if isinstance(m.content, str) else m.content, m.bad))


def _dumped(yaml: Any, value: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=False).encode("utf-8", "surrogatepass")
