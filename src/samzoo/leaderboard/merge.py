"""Runs of several groups on one board: which of them can stand beside each other, and why the others can't."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samzoo.errors import DataError
from samzoo.leaderboard.board import TestedRun
from samzoo.leaderboard.compute_load import dataset_and_signature, tested_cases
from samzoo.reading import some

SUFFIX = re.compile(r"-[0-9a-f]{10}(-seed\d+)?$")
"""What `samzoo leaderboard` puts behind a cell's name in the name of its run folder."""

STAMP = re.compile(r"(test-)?\d{8}-\d{6}(-\d+)?$")
"""Run folders of `samzoo fit` and `samzoo test` are called by the time, those above them by the config."""


@dataclass(frozen=True)
class Problem:
    """Why a run can't be on the same board as those before it."""

    entry: str
    folder: Path
    reason: str


def find_runs(given: Sequence[str]) -> list[tuple[str, Path]]:
    """(entry name, folder) of each run in any `FOLDER` or `NAME=FOLDER`: the folder itself, or those below it.

    A run that several of them hold is there once, under the name that is given for it.

    Raises:
        DataError: there is no run, or it has two names.
    """
    found: dict[Path, tuple[str, Path]] = {}
    for name, run in (pair for one in given for pair in _below(one)):
        known, _ = found.setdefault(run.resolve(), (name, run))
        if name and known and name != known:
            raise DataError(f"{run} is given as {known!r} and as {name!r}: a run is one entry")
        found[run.resolve()] = name or known, run
    return [(name or _name(run), run) for name, run in found.values()]


def _below(given: str) -> list[tuple[str, Path]]:
    name, equals, folder = given.partition("=")
    if not equals or Path(given).is_dir():
        name, folder = "", given
    runs: list[Path] = []
    for path in sorted(Path(folder).rglob("records.csv"), key=lambda p: p.parts):
        if not any(path.is_relative_to(above) for above in runs):  # later tests of a run lie in it
            runs.append(path.parent)
    if not runs:
        raise DataError(f"{folder}: no run is there: a run folder holds records.csv and run.json")
    return [(name, run) for run in runs]


def _name(folder: Path) -> str:
    path = folder.absolute()
    while STAMP.fullmatch(path.name):
        path = path.parent
    return SUFFIX.sub("", path.name) or "run"


def check(runs: Sequence[TestedRun]) -> list[Problem]:
    """Compare each run with those before it that have no problem; the first run of a data set says what its test is.

    Runs on different data sets have nothing to do with each other.
    """
    problems, sound = [], []
    for run in runs:
        reason = next(_reasons(run, sound), None)
        if reason:
            problems.append(Problem(run.entry, run.folder, reason))
        else:
            sound.append(run)
    return problems


def _reasons(run: TestedRun, others: Sequence[TestedRun]) -> Iterator[str]:
    if not run.records:
        yield "records.csv holds no record"
        return
    if not _of(run, "versions").get("samzoo"):
        yield "run.json does not say which version of samzoo tested it"
    if not _of(run, "protocol").get("regimes"):
        yield "run.json does not say how it was tested (`protocol`)"
    if len(_datasets(run)) > 1:
        yield f"records.csv holds several data sets: {', '.join(sorted(_datasets(run)))}"
    for other in (o for o in others if _datasets(o) == _datasets(run)):
        yield from _other_cases(run, other)
        yield from _other_protocol(run, other)
        if other.entry == run.entry:
            yield from _other_entry(run, other)


def _of(run: TestedRun, key: str) -> Mapping[str, Any]:
    value = run.info.get(key)
    return value if isinstance(value, dict) else {}


def _datasets(run: TestedRun) -> set[str]:
    return {r.dataset for r in run.records}


def _other_cases(run: TestedRun, other: TestedRun) -> Iterator[str]:
    beside = f"than {other.folder}"
    if different := sorted(tested_cases(run) ^ tested_cases(other)):
        yield f"other test cases {beside}: {some(different, 3)} only in one of them"
    patients, expected = ({r.case_id: r.patient for r in part.records} for part in (run, other))
    if different := sorted(c for c in patients.keys() & expected.keys() if patients[c] != expected[c]):
        yield f"other patients {beside}, in {some(different, 3)}"
    truths, expected = (_truths(part) for part in (run, other))
    if different := sorted({key[0] for key in truths.keys() & expected.keys() if truths[key] != expected[key]}):
        yield f"another ground truth {beside}, in {some(different, 3)}"
    own, theirs = (dataset_and_signature(part)[1] for part in (run, other))
    if own != theirs:
        yield f"another signature of the test cases {beside}: {own or 'none'}, {theirs or 'none'} there"


def _truths(run: TestedRun) -> dict[tuple[str, int], tuple]:
    """(case, class) -> the class's name, voxels of the truth and their volume, which no method changes."""
    found: dict[tuple[str, int], tuple] = {}
    for r in run.records:
        volume = None if r.voxel_mm3 is None else f"{r.voxel_mm3:.4g}"
        found[r.case_id, r.class_id] = r.class_name, r.tp + r.fn, volume
    return found


def _other_protocol(run: TestedRun, other: TestedRun) -> Iterator[str]:
    beside = f"than {other.folder}"
    own, theirs = _of(run, "protocol"), _of(other, "protocol")
    if own.get("seed") != theirs.get("seed"):
        yield f"other first prompts {beside}: protocol.seed is {own.get('seed')}, {theirs.get('seed')} there"
    if bool(own.get("prompts_file")) != bool(theirs.get("prompts_file")):
        yield f"other prompts {beside}: only one of them took them from a file"
    hashes = {part["prompts_sha256"] for part in (own, theirs) if part.get("prompts_sha256")}
    if len(hashes) > 1:
        yield f"other prompts {beside}: their prompts files differ"
    regimes, expected = own.get("regimes") or {}, theirs.get("regimes") or {}
    for regime in sorted(regimes.keys() & expected.keys()):
        one, two = regimes[regime] or {}, expected[regime] or {}
        if different := sorted(key for key in {*one, *two} if one.get(key) != two.get(key)):
            yield f"another protocol of regime {regime} {beside}: {', '.join(different)}"


def _other_entry(run: TestedRun, other: TestedRun) -> Iterator[str]:
    ask = f"{run.entry!r} is {other.folder} already; give this one a name of its own: NAME={run.folder}"
    if run.seed == other.seed:
        yield f"the same name and the same seed: {ask}"
    elif _of(run, "config").get("model") != _of(other, "config").get("model"):
        yield f"the same name for another method or other settings: {ask}"
