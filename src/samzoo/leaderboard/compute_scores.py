"""Records as arrays: what an entry achieved on every case of its section, mean over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from samzoo.evaluation.records import METRICS, Record
from samzoo.leaderboard.board import TestedRun
from samzoo.leaderboard.statistics import defined_mean

OBJECT_METRICS = ("dice", "nsd_2mm")
_values = attrgetter(*METRICS)


@dataclass(frozen=True)
class Scores:
    """One entry after one step of one regime, on all cases of its section. NaN is undefined.

    Args:
        metrics: name -> (cases,), mean over the classes of a case, then over seeds.
        objects: name of one of `OBJECT_METRICS` -> (cases, classes), mean over seeds.
        effort: (cases,), summed over the classes of a case.
        scored: (cases,) bool; every seed has records of the case.
        seed_dice: (seeds,), mean over the scored cases.
        false_positives: pairs of case and class, mean over seeds.
        incomplete: some seeds have cases that others lack.
    """

    metrics: Mapping[str, np.ndarray]
    objects: Mapping[str, np.ndarray]
    effort: np.ndarray
    scored: np.ndarray
    seed_dice: np.ndarray
    false_positives: float
    oracle: str
    incomplete: bool

    def mean(self, metric: str, cases: np.ndarray) -> float:
        """Over these cases (bool)."""
        return float(defined_mean(self.metrics[metric][cases]))


Table = Mapping[str, Mapping[int, Mapping[str, Scores]]]
"""regime -> step -> entry -> scores."""


def make_table(
    runs: Sequence[TestedRun],
    regimes: Mapping[int, frozenset[str]],
    cases: Mapping[str, int],
    classes: Mapping[int, int],
) -> Table:
    """Scores of all runs of a section, the seeds of an entry put together.

    Args:
        regimes: index of a run -> its regimes that may be compared with those of the others.
        cases, classes: id -> index in the arrays.
    """
    found: dict[str, dict[int, dict[str, list[list[Record]]]]] = {}
    for index, run in enumerate(runs):
        groups: dict[tuple[str, int], list[Record]] = {}
        for record in run.records:
            groups.setdefault((record.regime, record.step), []).append(record)
        for (regime, step), records in groups.items():
            if regime in regimes[index]:
                found.setdefault(regime, {}).setdefault(step, {}).setdefault(run.entry, []).append(records)
    return {
        regime: {
            step: {entry: _scores(seeds, cases, classes) for entry, seeds in found[regime][step].items()}
            for step in sorted(found[regime])
        }
        for regime in sorted(found)
    }


def _scores(seeds: Sequence[Sequence[Record]], cases: Mapping[str, int], classes: Mapping[int, int]) -> Scores:
    values = np.full((len(seeds), len(cases), len(classes), len(METRICS)), np.nan)
    effort = np.zeros((len(seeds), len(cases)))
    present = np.zeros((len(seeds), len(cases)), dtype=bool)
    for i, records in enumerate(seeds):
        at = [cases[r.case_id] for r in records]
        values[i, at, [classes[r.class_id] for r in records]] = np.array([_values(r) for r in records], dtype=float)
        np.add.at(effort[i], at, [r.effort for r in records])
        present[i, at] = True
    scored = present.all(axis=0)
    values[:, ~scored] = np.nan
    by_case = defined_mean(values, axis=2)
    means = defined_mean(by_case, axis=0)
    dice = METRICS.index("dice")
    first = seeds[0][0]
    oracle = [*["classes"] * first.oracle_classes, *[first.oracle_slices] * (first.oracle_slices != "none")]
    return Scores(
        metrics={name: means[:, k] for k, name in enumerate(METRICS)},
        objects={name: defined_mean(values[..., METRICS.index(name)], axis=0) for name in OBJECT_METRICS},
        effort=np.where(scored, effort.mean(axis=0), np.nan),
        scored=scored,
        seed_dice=defined_mean(by_case[..., dice], axis=1),
        false_positives=sum(r.false_positive for records in seeds for r in records) / len(seeds),
        oracle=", ".join(oracle),
        incomplete=bool((present != scored).any()),
    )


def volumes_ml(runs: Sequence[TestedRun], cases: Mapping[str, int], classes: Mapping[int, int]) -> np.ndarray:
    """(cases, classes), volume of the ground truth; NaN where there is none, or records don't say it."""
    volumes = np.full((len(cases), len(classes)), np.nan)
    for run in runs:
        for r in run.records:
            if r.voxel_mm3 is not None and r.tp + r.fn > 0:
                volumes[cases[r.case_id], classes[r.class_id]] = (r.tp + r.fn) * r.voxel_mm3 / 1000
    return volumes


def ms_per_case(records: Sequence[Record], regime: str) -> float | None:
    """Milliseconds of encoding and decoding for a case in a regime, all its steps and classes, mean over cases.

    What an earlier regime has encoded costs a later one nothing, so encoding is the most that any regime spent on it.
    """
    encode: dict[tuple[str, str], dict[int, float]] = {}
    decode: dict[tuple[str, str], dict[int, float]] = {}
    for r in records:
        encode.setdefault((r.case_id, r.regime), {})[r.step] = r.encode_seconds
        decode.setdefault((r.case_id, r.regime), {})[r.step] = r.decode_seconds
    most: dict[str, float] = {}
    for (case, _), steps in encode.items():
        most[case] = max(most.get(case, 0.0), sum(steps.values()))
    own = [most[case] + sum(steps.values()) for (case, name), steps in decode.items() if name == regime]
    return 1000 * sum(own) / len(own) if own else None
