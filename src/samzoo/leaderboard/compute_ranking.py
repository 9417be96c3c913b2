"""The rows of one regime, and the ranking and tests of its entries after the last step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from samzoo.evaluation.records import METRICS
from samzoo.leaderboard.board import Comparison, Ranking, Row
from samzoo.leaderboard.compute_scores import Scores
from samzoo.leaderboard.statistics import (
    DIGITS,
    MIN_PATIENTS,
    bootstrap_means,
    defined_mean,
    estimate,
    holm,
    rank_shares,
    signed_rank_p,
)


def too_few(patients: int) -> str:
    return f"Fewer than {MIN_PATIENTS} patients ({patients}): no intervals and no tests"


def rank_regime(
    regime: str,
    steps: Mapping[int, Mapping[str, Scores]],
    patient: np.ndarray,
    classes: Sequence[str],
    draws: int,
    rng: np.random.Generator,
) -> tuple[list[Row], Ranking]:
    """Rows of all steps, each over the cases that its entry has; the ranking is over the cases that all have.

    One set of draws serves all entries, steps and metrics.

    Args:
        steps: step -> entry -> scores.
        patient: (cases,), index of the patient of each.
        classes: names.

    Returns:
        Rows by step and Dice, without method and published Dice; the ranking.
    """
    last = max(steps)
    cells = [(step, entry, scores) for step, by_entry in steps.items() for entry, scores in by_entry.items()]
    ranked = steps[last]
    common = np.all([s.scored for s in ranked.values()], axis=0)
    columns = [s.metrics[metric] for _, _, s in cells for metric in METRICS]
    columns += [np.where(common, s.metrics["dice"], np.nan) for s in ranked.values()]
    scored = np.any([s.scored for _, _, s in cells], axis=0)
    drawn = bootstrap_means(np.stack(columns, axis=1)[scored], patient[scored], draws, rng)
    rows = []
    for i, (step, entry, scores) in enumerate(cells):
        own = drawn[:, i * len(METRICS) : (i + 1) * len(METRICS)]
        rows.append(_row(regime, step, step == last, entry, scores, patient, classes, own))
    rows.sort(key=lambda r: (r.step, -math.inf if r.dice.mean is None else -r.dice.mean, r.entry))
    others = {entry for by_entry in steps.values() for entry in by_entry} - set(ranked)
    ranking = _ranking(regime, last, ranked, common, patient, drawn[:, len(cells) * len(METRICS) :], sorted(others))
    return rows, ranking


def _row(
    regime: str,
    step: int,
    last: bool,
    entry: str,
    scores: Scores,
    patient: np.ndarray,
    classes: Sequence[str],
    drawn: np.ndarray,
) -> Row:
    estimates = {}
    for k, metric in enumerate(METRICS):
        values = scores.metrics[metric]
        patients = len(set(patient[~np.isnan(values)]))
        estimates[metric] = estimate(float(defined_mean(values)), drawn[:, k], patients)
    seed_dice = scores.seed_dice
    several = len(seed_dice) > 1 and not np.isnan(seed_dice).any()
    return Row(
        entry=entry,
        method="",
        regime=regime,
        step=step,
        last=last,
        effort=_defined(defined_mean(scores.effort)),
        oracle=scores.oracle,
        **estimates,
        false_positives=math.ceil(scores.false_positives),
        cases=int(scores.scored.sum()),
        patients=len(set(patient[scores.scored])),
        seeds=len(seed_dice),
        seed_sd=float(seed_dice.std(ddof=1)) if several else None,
        by_class=dict(zip(classes, map(_defined, defined_mean(scores.objects["dice"])), strict=True)),
    )


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _ranking(
    regime: str,
    step: int,
    ranked: Mapping[str, Scores],
    common: np.ndarray,
    patient: np.ndarray,
    drawn: np.ndarray,
    others: Sequence[str],
) -> Ranking:
    """Args: drawn: (draws, entries), mean Dice over the common cases; others: entries that lack this step."""
    means = {name: s.mean("dice", common) for name, s in ranked.items()}
    order = sorted(means, key=lambda n: (math.inf if np.isnan(means[n]) else -round(means[n], DIGITS), n))
    column = {name: drawn[:, i] for i, name in enumerate(ranked)}
    patients = len(set(patient[common]))
    notes = [f"Without {name}, which has no step {step}." for name in others]
    if any((s.scored != common).any() for s in ranked.values()):
        notes.append(f"Over the {int(common.sum())} cases that all entries have.")
    if patients < MIN_PATIENTS:
        return Ranking(regime, step, tuple(order), {}, (), " ".join([*notes, f"{too_few(patients)}."]))
    shares = rank_shares(np.stack([column[name] for name in order], axis=1))
    comparisons, one_sided = [], 0
    for first, second in combinations(order, 2):
        difference = ranked[first].metrics["dice"] - ranked[second].metrics["dice"]
        paired = common & ~np.isnan(difference)
        either = [~np.isnan(ranked[name].metrics["dice"]) for name in (first, second)]
        one_sided = max(one_sided, int((common & (either[0] != either[1])).sum()))
        own = patient[paired]
        by_patient = (
            np.bincount(own, weights=difference[paired])[np.unique(own)] / np.unique(own, return_counts=True)[1]
        )
        drawn_difference = column[first] - column[second]
        interval = estimate(means[first] - means[second], drawn_difference, len(by_patient))
        comparisons.append(Comparison(first, second, interval, signed_rank_p(by_patient), None, len(by_patient)))
    if one_sided:
        notes.append(
            f"In up to {one_sided} cases without any of the classes one entry of a pair rightly found nothing and has "
            "no Dice: such cases count in means and differences, not in tests."
        )
    shares_of = {name: tuple(map(float, row)) for name, row in zip(order, shares, strict=True)}
    return Ranking(regime, step, tuple(order), shares_of, _corrected(comparisons), " ".join(notes))


def _corrected(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    tested = [c for c in comparisons if c.p is not None]
    adjusted = dict(zip(map(id, tested), holm([c.p for c in tested]), strict=True))
    return tuple(Comparison(c.first, c.second, c.difference, c.p, adjusted.get(id(c)), c.patients) for c in comparisons)
