import numpy as np
import pytest
from scipy import stats

from samzoo.leaderboard.statistics import (
    MIN_PATIENTS,
    bootstrap_means,
    break_even,
    defined_mean,
    estimate,
    generator,
    holm,
    rank_shares,
    ranks,
    signed_rank_p,
)


def test_intervals_are_those_of_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).beta(5, 2, size=40)
    drawn = bootstrap_means(values[:, None], np.arange(40), 20_000, generator(0))[:, 0]
    ours = estimate(values.mean(), drawn, 40)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.003)
    assert ours.high - ours.low > 0.05


def test_all_cases_of_a_patient_are_drawn_together():
    """Ten equal cases of each of 8 patients say no more than one case of each."""
    values = np.random.default_rng(0).random(8)
    one = bootstrap_means(values[:, None], np.arange(8), 500, generator("a"))
    ten = bootstrap_means(np.repeat(values, 10)[:, None], np.repeat(np.arange(8), 10), 500, generator("a"))
    assert ten == pytest.approx(one)
    independent = bootstrap_means(np.repeat(values, 10)[:, None], np.arange(80), 500, generator("a"))
    assert independent.std() < one.std() / 2


def test_patients_with_more_cases_weigh_more_as_in_scipys_paired_bootstrap():
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 6, 30)
    patient, values = np.repeat(np.arange(30), sizes), rng.random(sizes.sum())
    drawn = bootstrap_means(values[:, None], patient, 20_000, generator(0))[:, 0]
    ours = estimate(values.mean(), drawn, 30)
    sums = np.bincount(patient, weights=values)
    theirs = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=4,
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.003)


def test_draws_in_parts_are_draws_all_the_same(monkeypatch):
    values = np.random.default_rng(0).random((50, 2))
    monkeypatch.setattr("samzoo.leaderboard.statistics.CHUNK", 700)
    drawn = bootstrap_means(values, np.arange(50), 300, generator(0))
    assert drawn.shape == (300, 2) and not np.isnan(drawn).any() and len(np.unique(drawn[:, 0])) > 290


def test_undefined_values_are_left_out_and_never_become_zero():
    values = np.array([[0.5, np.nan], [0.5, np.nan], [np.nan, np.nan]])
    drawn = bootstrap_means(values, np.arange(3), 200, generator(0))
    assert set(np.unique(drawn[:, 0][~np.isnan(drawn[:, 0])])) == {0.5} and np.isnan(drawn[:, 1]).all()
    assert estimate(float("nan"), drawn[:, 1], 9).mean is None
    assert defined_mean(np.array([np.nan, np.nan])).tolist() != [0.0] and np.isnan(defined_mean(np.array([np.nan])))
    assert bootstrap_means(np.empty((0, 2)), np.empty(0, dtype=int), 5, generator(0)).shape == (5, 2)


def test_too_few_patients_give_a_mean_without_interval():
    drawn = np.linspace(0, 1, 100)
    assert estimate(0.5, drawn, MIN_PATIENTS).low == pytest.approx(0.025)
    few = estimate(0.5, drawn, MIN_PATIENTS - 1)
    assert (few.mean, few.low, few.high) == (0.5, None, None)


def test_signed_ranks_against_scipy_and_an_exact_count():
    differences = np.random.default_rng(0).normal(0.02, 0.05, 20)
    assert signed_rank_p(differences) == pytest.approx(stats.wilcoxon(differences).pvalue, rel=1e-9)
    # all of one sign: the two most extreme of 2**6 sign patterns
    assert signed_rank_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])) == pytest.approx(2 / 2**6)
    assert signed_rank_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) is None


def test_equal_pairs_speak_for_no_difference():
    assert signed_rank_p(np.zeros(10)) == 1.0
    assert signed_rank_p(np.full(10, 0.3) - 0.2 - 0.1) == 1.0  # 5e-17 is no difference
    some = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.05, 0.7])
    padded = np.concatenate([some, np.zeros(12)])
    assert signed_rank_p(padded) == pytest.approx(stats.wilcoxon(padded, zero_method="pratt").pvalue)
    assert signed_rank_p(padded) > stats.wilcoxon(padded, zero_method="wilcox").pvalue


@pytest.mark.parametrize(
    "raw, adjusted",
    [
        # By hand, after Holm 1979, p. 67: the smallest of 4 times 4, the next times 3 ...
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        # The example in the manual of pingouin.holm
        ([0.50, 0.003, 0.32, 0.054, 0.0003], [0.64, 0.012, 0.64, 0.162, 0.0015]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm(raw, adjusted):
    assert holm(raw) == pytest.approx(adjusted)


def test_ranks_of_means_as_in_the_ranking_of_challenges():
    """The first three are expectations of challengeR's own tests of aggregateThenRank (ties "min")."""
    assert ranks(np.array([0.6, 0.8])).tolist() == [2, 1]
    assert ranks(np.array([[0.6, 0.8], [0.4, 1.0]]).mean(axis=0)).tolist() == [2, 1]
    assert ranks(np.array([0.6, 0.6])).tolist() == [1, 1]
    assert ranks(np.array([np.nan, 0.0, 0.9])).tolist() == [3, 2, 1]
    assert ranks(np.array([0.1 + 0.2, 0.3, 0.2])).tolist() == [1, 1, 3]


def test_shares_of_ranks():
    """challengeR's ideal challenge: five algorithms that never overlap hold their ranks in every draw."""
    rng = np.random.default_rng(4)
    ideal = np.stack([rng.uniform(low, low + 0.09, 50) for low in (0.9, 0.8, 0.7, 0.6, 0.5)], axis=1)
    assert rank_shares(bootstrap_means(ideal, np.arange(50), 200, generator(0))) == pytest.approx(np.eye(5))
    alike = rng.random((50, 3))
    shares = rank_shares(bootstrap_means(alike, np.arange(50), 500, generator(0)))
    assert shares.sum(axis=1) == pytest.approx([1, 1, 1]) and (shares < 1).all()
    assert rank_shares(np.full((10, 2), 0.5)).tolist() == [[1, 0], [1, 0]]
    assert rank_shares(np.array([[0.5, np.nan], [0.2, 0.4]])).tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    "target, expected",
    [(0.2, 1.0), (0.4, 1.0), (0.5, 2.0), (0.6, 3.0), (0.75, 6.0), (0.9, 9.0), (0.91, None)],
)
def test_break_even_is_linear_between_steps(target, expected):
    found = break_even([9.0, 1.0, 3.0, 5.0], [0.9, 0.4, 0.6, float("nan")], target)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_break_even_at_a_level_curve_and_at_rounding_errors():
    assert break_even([0, 4], [0.5, 0.5], 0.5) == 0
    assert break_even([0, 4], [0.3, 0.8], 0.1 + 0.2) == 0
    assert break_even([0, 2, 4], [0.3, 0.8, 0.2], 0.5) == pytest.approx(0.8)
    assert break_even([], [], 0.5) is None


def test_draws_depend_on_the_text_of_their_seed_alone():
    a, b, c = (generator(0, "amos", name).integers(1000, size=8).tolist() for name in ("auto", "auto", "box_3d"))
    assert a == b != c
