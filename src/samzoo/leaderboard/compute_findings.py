"""What a board shows beside tables and ranks: break-even, strata, robustness, and the cases to look at."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from samzoo.leaderboard.board import BreakEven, Finding, Robustness, Stratum
from samzoo.leaderboard.compute_scores import OBJECT_METRICS, Scores, Table
from samzoo.leaderboard.statistics import DIGITS, break_even, defined_mean

WORST_CASES = 3
DISAGREEMENTS = 3
NOISE = re.compile(r"(.+)_(?:(jitter)(\d+(?:\.\d+)?)|(shift)(\d+(?:\.\d+)?)mm)")


def split_noise(regime: str) -> tuple[str, str | None, float]:
    """A regime's name without the noise of its prompts, the kind of noise and its amount.

    `box_3d_jitter10` is ("box_3d", "jitter", 10.0), in percent of the box's side; `clicks_3d_shift4mm` is
    ("clicks_3d", "shift", 4.0), in mm; without noise it is (regime, None, 0.0).
    """
    if not (match := NOISE.fullmatch(regime)):
        return regime, None, 0.0
    base, *groups = match.groups()
    kind, amount = (g for g in groups if g is not None)
    return base, kind, float(amount)


def break_evens(table: Table, automatic: Sequence[str], name: str, best: Scores) -> tuple[BreakEven, ...]:
    """For each prompted entry, regime and metric, against the best automatic entry on the objects that both have.

    A prompted method is not asked for classes that a case lacks: there only the automatic one could lose. Steps without
    any effort are automatic answers.

    Args:
        automatic: regimes.
        name, best: the automatic entry and its scores.
    """
    found = []
    for metric in OBJECT_METRICS:
        for regime in (r for r in table if r not in automatic):
            for entry, steps in _by_entry(table[regime]).items():
                answers = [s for s in steps.values() if np.nansum(s.effort) > 0]
                if not answers:
                    continue
                shared = ~np.isnan([s.objects[metric] for s in (best, *answers)]).any(axis=0)
                if not shared.any():
                    continue
                target, *values = (_mean_over(s.objects[metric], shared) for s in (best, *answers))
                effort = [float(defined_mean(s.effort[shared.any(axis=1)])) for s in answers]
                found.append(BreakEven(entry, regime, metric, name, target, break_even(effort, values, target)))
    return tuple(found)


def _mean_over(values: np.ndarray, objects: np.ndarray) -> float:
    """Over the classes of a case, then over cases; both (cases, classes)."""
    return float(defined_mean(defined_mean(np.where(objects, values, np.nan), axis=1)))


def strata(table: Table, main: Sequence[str], volumes: np.ndarray) -> tuple[tuple[Stratum, ...], list[str]]:
    """Mean Dice of objects in three ranges of volume, in the last step of the main regimes.

    The limits are the tertiles of the section's objects, the same for all entries; of objects that all entries of a
    regime were scored on.

    Args:
        volumes: (cases, classes) ml, NaN where there is no object.
    """
    known = volumes[~np.isnan(volumes)]
    if not len(known):
        return (), ["No volume of an object is known (records without voxel_mm3): no strata. Test again to have them."]
    limits = np.unique([0.0, *np.quantile(known, [1 / 3, 2 / 3]), math.inf])
    found = []
    for regime in main:
        by_entry = table[regime][max(table[regime])]
        common = np.all([s.scored for s in by_entry.values()], axis=0)
        for entry, scores in by_entry.items():
            for low, high in pairwise(limits):
                dice = scores.objects["dice"][common[:, None] & (volumes >= low) & (volumes < high)]
                dice = dice[~np.isnan(dice)]
                mean = float(dice.mean()) if len(dice) else None
                found.append(Stratum(entry, regime, float(low), float(high), mean, len(dice)))
    return tuple(found), []


def robustness(table: Table) -> tuple[tuple[Robustness, ...], list[str]]:
    """Dice of the noisy variants of a regime beside the regime itself, at the last step and on the cases all have."""
    variants: dict[tuple[str, str], dict[float, str]] = {}
    for regime in table:
        base, kind, amount = split_noise(regime)
        if kind is not None:
            variants.setdefault((base, kind), {})[amount] = regime
    found, notes = [], []
    for (base, kind), names in sorted(variants.items()):
        entries = sorted({entry for name in names.values() for entry in _by_entry(table[name])})
        for entry in entries:
            own = {amount: steps for amount, name in names.items() if (steps := _by_entry(table[name]).get(entry))}
            clean = _by_entry(table.get(base, {})).get(entry, {})
            shared = set(clean).intersection(*own.values())
            if not shared:
                notes.append(f"{entry}: nothing to compare the noisy prompts of {base} ({kind}) with; test {base} too.")
                continue
            step = max(shared)
            scores = {0.0: clean[step], **{amount: own[amount][step] for amount in sorted(own)}}
            common = np.all([s.scored for s in scores.values()], axis=0)
            points = [(amount, s.mean("dice", common)) for amount, s in scores.items()]
            points = [p for p in points if not np.isnan(p[1])]
            if len(points) > 1:
                found.append(Robustness(entry, base, kind, tuple(points), step, int(common.sum())))
    return tuple(found), notes


def find_cases(
    table: Table, main: Sequence[str], main_of: Mapping[str, str], case_ids: Sequence[str]
) -> tuple[Finding, ...]:
    """The worst cases of each entry in the regime that ranks it, and those on which a regime's entries differ most.

    Args:
        main: regimes in which entries are compared.
        main_of: entry -> regime that ranks it.
    """
    found = []
    for entry, regime in main_of.items():
        step = max(_by_entry(table[regime])[entry])
        dice = table[regime][step][entry].metrics["dice"]
        for i in _first(dice, WORST_CASES):
            found.append(Finding("worst", case_ids[i], regime, step, (entry,), {entry: float(dice[i])}))
    for regime in main:
        step = max(table[regime])
        names = tuple(table[regime][step])
        dice = np.stack([table[regime][step][name].metrics["dice"] for name in names])
        several = (~np.isnan(dice)).sum(axis=0) > 1
        spread = np.full(len(case_ids), np.nan)
        spread[several] = np.nanmax(dice[:, several], axis=0) - np.nanmin(dice[:, several], axis=0)
        for i in _first(np.where(np.round(spread, DIGITS) > 0, -spread, np.nan), DISAGREEMENTS):
            values = {name: float(d) for name, d in zip(names, dice[:, i], strict=True) if not np.isnan(d)}
            found.append(Finding("disagreement", case_ids[i], regime, step, tuple(values), values))
    return tuple(found)


def _first(values: np.ndarray, count: int) -> list[int]:
    """Indices of the least defined values; equal ones in the order of cases."""
    order = np.argsort(np.round(values, DIGITS), kind="stable")
    return [int(i) for i in order[:count] if not np.isnan(values[i])]


def _by_entry(steps: Mapping[int, Mapping[str, Scores]]) -> dict[str, dict[int, Scores]]:
    """entry -> step -> scores."""
    found: dict[str, dict[int, Scores]] = {}
    for step, by_entry in steps.items():
        for entry, scores in by_entry.items():
            found.setdefault(entry, {})[step] = scores
    return found
