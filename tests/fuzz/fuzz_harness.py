"""Counts what becomes of bad inputs: a readable error, a finding, the sound result, or a defect.

A mutant is `bad` where it is wrong by construction, so that a result other than that of the sound input is a number
that nobody should have seen. Mutants that are not bad may be another sound input (a flipped bit in a format without
checksums); they must end without a crash, a hang or a memory that explodes, and are counted apart.
"""

from __future__ import annotations

import re
import resource
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from samzoo.errors import SamzooError

SECONDS = 20
"""Longest time of the processor that one input may take; ten times as long on the clock, as a machine may be busy."""
MEMORY = 2**30
"""Bytes that the process may grow while one input is read."""
KEPT = 40
"""Defects that are shown of a test."""

both = pytest.mark.parametrize(
    "scale", [pytest.param(1 / 80, id="sample"), pytest.param(1.0, id="all", marks=pytest.mark.slow)]
)
"""Runs a target with a sample of its inputs in the default suite, with all of them in the slow one."""


class Mutant(NamedTuple):
    """An input.

    Args:
        what: was done to the sound input.
        content: the input.
        bad: wrong by construction, see above.
    """

    what: str
    content: Any
    bad: bool = False


class Finding(NamedTuple):
    """What `verify` returns where it found an error."""

    text: str


class Hang(BaseException):
    """An input took longer than `SECONDS`."""


@dataclass
class Count:
    """Of a target."""

    errors: int = 0
    findings: int = 0
    equal: int = 0
    other: int = 0
    defects: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return self.errors + self.findings + self.equal + self.other + len(self.defects)


TABLE: dict[str, Count] = {}
"""Of this process, by target."""
DEFECTS: list[str] = []
"""Of all targets."""


def table() -> list[str]:
    """Lines to print."""
    head = f"{'target':<34}{'inputs':>8}{'errors':>8}{'findings':>9}{'as sound':>9}{'other':>7}{'defects':>8}"
    total = Count()
    lines = []
    for name, c in TABLE.items():
        lines.append(_line(name, c))
        for key in ("errors", "findings", "equal", "other", "defects"):
            setattr(total, key, getattr(total, key) + getattr(c, key))
    return [head, *lines, _line("all", total)]


def _line(name: str, c: Count) -> str:
    return f"{name:<34}{c.inputs:>8}{c.errors:>8}{c.findings:>9}{c.equal:>9}{c.other:>7}{len(c.defects):>8}"


def fuzz(
    target: str,
    mutants: SearchStrategy[Mutant] | Sequence[Mutant],
    read: Callable[[Any], Any],
    sound: Any,
    named: str | Sequence[str] = "",
    examples: int = 0,
) -> None:
    """Try every mutant once.

    Args:
        mutants: a strategy, of which `examples` are drawn, or all that there are.
        read: gives a result that can be compared, or raises; a `Finding` counts as such.
        sound: its result for the sound input.
        named: an error's message must hold (one of) this.
    """
    count = TABLE.setdefault(target, Count())
    before = len(count.defects)
    names = [named] if isinstance(named, str) else named
    seen: set[str] = set()

    def one(mutant: Mutant) -> None:
        if mutant.what not in seen:
            seen.add(mutant.what)
            _judge(count, mutant, read, sound, names)

    if isinstance(mutants, SearchStrategy):
        own = settings(
            max_examples=max(3, examples),
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        one.__name__ = one.__qualname__ = re.sub(r"\W", "_", target)
        own(given(mutants)(one))()
    else:
        for mutant in mutants:
            one(mutant)
    assert seen, "nothing was tried"
    DEFECTS.extend(f"{target}: {text}" for text in count.defects[before:])


def _judge(count: Count, mutant: Mutant, read: Callable, sound: Any, names: Sequence[str]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _time_limit():
            result = read(mutant.content)
    except SamzooError as error:
        message = str(error)
        if not any(name in message for name in names) or len(message) > 20000:
            count.defects.append(f"{mutant.what}: the message does not name the input: {message[:300]}")
        else:
            count.errors += 1
    except (Exception, Hang) as error:
        where = traceback.extract_tb(error.__traceback__)
        own = [f for f in where if "/samzoo/" in f.filename] or where
        place = f"{own[-1].filename.rsplit('/', 1)[-1]}:{own[-1].lineno}"
        count.defects.append(f"{mutant.what}: {type(error).__name__} at {place}: {str(error)[:200]}")
    else:
        if isinstance(result, Finding):
            count.findings += 1
        elif result == sound:
            count.equal += 1
        elif mutant.bad:
            count.defects.append(f"{mutant.what}: read as if it were sound: {str(result)[:200]}")
        else:
            count.other += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    if grown > MEMORY:
        count.defects.append(f"{mutant.what}: memory grew by {grown / 2**20:.0f} MiB")


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang(f"more than {SECONDS} s")

    clocks = (signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, 10 * SECONDS)
    before = [signal.signal(number, stop) for number, _, _ in clocks]
    for _, timer, seconds in clocks:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
