"""The statistics of the leaderboard: patients are the independent units, undefined values (NaN) are left out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata, wilcoxon

from samzoo.leaderboard.board import Estimate

MIN_PATIENTS = 6
"""With fewer there are no intervals and no tests: of 5 pairs the smallest two-sided p is 2 / 2**5 = 0.0625."""

CONFIDENCE = 0.95
DIGITS = 9
"""Differences beyond this decimal place are rounding errors: records hold six digits."""

CHUNK = 4_000_000
"""So many drawn patients are in memory at a time."""


def generator(*parts: object) -> np.random.Generator:
    """Random numbers that depend on nothing but the text of these parts."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16]))


def defined_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean along an axis over what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    count = defined.sum(axis)
    total = np.where(defined, values, 0.0).sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def bootstrap_means(values: np.ndarray, patient: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means over cases after drawing as many patients with replacement, each with all of its cases.

    All columns see the same draws, so that their differences and ranks are paired.

    Args:
        values: (cases, columns).
        patient: (cases,), of each case.

    Returns:
        (draws, columns); NaN where a draw holds no defined value.
    """
    _, index = np.unique(patient, return_inverse=True)
    count = int(index.max(initial=-1)) + 1
    if not count:
        return np.full((draws, values.shape[1]), np.nan)
    defined = ~np.isnan(values)
    sums, counts = (np.zeros((count, values.shape[1])) for _ in range(2))
    np.add.at(sums, index, np.where(defined, values, 0.0))
    np.add.at(counts, index, defined)
    means = np.full((draws, values.shape[1]), np.nan)
    step = max(1, CHUNK // count)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)
        total, number = times @ sums, times @ counts
        np.divide(total, number, out=means[start : start + rows], where=number > 0)
    return means


def estimate(mean: float, drawn: np.ndarray, patients: int) -> Estimate:
    """A mean with its percentile interval; without interval below `MIN_PATIENTS`.

    Args:
        drawn: (draws,) of `bootstrap_means`; NaN is left out.
        patients: with a defined value.
    """
    if np.isnan(mean):
        return Estimate()
    drawn = drawn[~np.isnan(drawn)]
    if patients < MIN_PATIENTS or not len(drawn):
        return Estimate(float(mean))
    low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Estimate(float(mean), float(low), float(high))


def signed_rank_p(differences: np.ndarray) -> float | None:
    """Two-sided p of the Wilcoxon signed-rank test; None with fewer than `MIN_PATIENTS` differences.

    Equal pairs are ranked and then dropped (Pratt 1959): two methods that fail on the same cases are evidence for no
    difference, which leaving those cases out would throw away. p is exact where scipy can make it so. 1 if all pairs
    are equal.

    Args:
        differences: (patients,), defined.
    """
    differences = np.round(differences, DIGITS)
    if len(differences) < MIN_PATIENTS:
        return None
    if not differences.any():
        return 1.0
    return float(wilcoxon(differences, zero_method="pratt", method="auto").pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p adjusted by Holm's step-down procedure (Holm 1979, Scand J Statist 6:65-70), in the order given."""
    adjusted, least = [0.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = least
    return adjusted


def ranks(means: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis, highest first. Ties share the best of their ranks, NaN comes last.

    As in the ranking of challenges (Wiesenfarth et al., Sci Rep 2021, ties "min"): means first, then ranks.
    """
    return rankdata(-np.nan_to_num(np.round(means, DIGITS), nan=-np.inf), method="min", axis=-1).astype(int)


def rank_shares(means: np.ndarray) -> np.ndarray:
    """Share of the draws in which each column holds each rank.

    Args:
        means: (draws, entries) of `bootstrap_means`.

    Returns:
        (entries, entries); row i holds the shares of entry i and sums to 1. Ties share a rank, so columns may not.
    """
    held = ranks(means)
    return np.stack([(held == rank).mean(axis=0) for rank in range(1, means.shape[1] + 1)], axis=1)


def break_even(effort: Sequence[float], values: Sequence[float], target: float) -> float | None:
    """The least effort at which a curve reaches a target, linear between its points; None if it never does.

    Args:
        effort, values: of each point; undefined points (NaN) are left out.
    """
    points = sorted((e, v) for e, v in zip(effort, values, strict=True) if not np.isnan(v))
    for i, (e, v) in enumerate(points):
        if round(v - target, DIGITS) >= 0:
            if i == 0:
                return float(e)
            e0, v0 = points[i - 1]
            return float(e0 + min(1.0, (target - v0) / (v - v0)) * (e - e0))
    return None
