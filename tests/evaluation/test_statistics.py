"""Intervals and tests, compared with SciPy and with simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

from kdcli.evaluation.statistics import (
    EXACT_BELOW,
    MANY,
    PairedDecisions,
    decide_verdict,
    estimate_gain,
    holm_levels,
    smallest_visible_gain,
    t_quantile,
    t_tails,
    wilson_interval,
)

TRIES = 1000


@pytest.mark.parametrize("trials", [1, 2, 10, 360, 10_000])
@pytest.mark.parametrize("proportion", [0.0, 0.1, 0.5, 0.97, 1.0])
def test_wilson_interval_equals_scipy(trials, proportion):
    successes = round(proportion * trials)
    expected = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_without_trials_is_everything():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("trials", [1, 3, 50])
def test_wilson_interval_contains_the_proportion_and_stays_in_range(trials):
    for successes in range(trials + 1):
        low, high = wilson_interval(successes, trials)
        proportion, rounding = successes / trials, 1e-15
        assert 0.0 <= low <= proportion + rounding
        assert proportion - rounding <= high <= 1.0


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 10, 29, 30])
def test_students_t_equals_scipy(freedom):
    for t in (0.0, 0.1, 1.0, 2.5, 12.7, 60.0):
        assert t_tails(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), abs=1e-14)
    for alpha in (0.3, 0.05, 0.0125, 0.001):
        assert t_quantile(alpha, freedom) == pytest.approx(stats.t.isf(alpha / 2, freedom), rel=1e-10)


@pytest.mark.parametrize(
    ("wins", "losses"), [(0, 0), (1, 0), (8, 3), (24, 0), (14, 10), (25, 0), (60, 45), (900, 950)]
)
def test_mcnemar_equals_the_binomial_test(wins, losses):
    p, total = PairedDecisions(10_000, wins, losses).mcnemar(), wins + losses
    if total == 0:
        assert p == 1.0
        return
    expected = binomtest(min(wins, losses), total).pvalue
    if total >= EXACT_BELOW:
        expected -= stats.binom.pmf(min(wins, losses), total, 0.5)
    assert p == pytest.approx(expected, rel=1e-9)


def test_mcnemar_is_symmetric():
    assert PairedDecisions(500, 30, 12).mcnemar() == PairedDecisions(500, 12, 30).mcnemar()


def test_paired_interval_covers_a_known_difference():
    random = np.random.default_rng(0)
    for examples, wins, losses in [(200, 0.06, 0.03), (1000, 0.04, 0.04), (500, 0.02, 0.01)]:
        drawn = random.multinomial(examples, [wins, losses, 1 - wins - losses], TRIES)
        intervals = [PairedDecisions(examples, int(won), int(lost)).interval() for won, lost, _ in drawn]
        covered = np.mean([low <= wins - losses <= high for low, high in intervals])
        assert 0.90 <= covered <= 0.99


def test_holm_levels_rise_until_the_first_comparison_is_not_rejected():
    assert holm_levels([0.01]) == [0.05]
    assert holm_levels([0.04, 0.001, 0.9]) == pytest.approx([0.025, 0.05 / 3, 0.025])
    assert holm_levels([0.02, 0.03, 0.04]) == pytest.approx([0.05 / 3] * 3)
    assert holm_levels([]) == []


def test_holm_levels_reject_the_same_as_holms_procedure():
    random = np.random.default_rng(1)
    for _ in range(200):
        p_values = (random.random(4) ** 3).tolist()
        rejected = [p < level for p, level in zip(p_values, holm_levels(p_values), strict=True)]
        order, expected = np.argsort(p_values), [False] * 4
        for rank, at in enumerate(order):
            if p_values[at] >= 0.05 / (4 - rank):
                break
            expected[at] = True
        assert rejected == expected


def simulate(gain, *, seed, repeats=3, examples=2000, spread=0.004):
    """Differences of `repeats` pairs on one test split, and the standard error over its examples.

    The seed of a student moves its true gain by `spread`; wins and losses on the examples are random.
    """
    random = np.random.default_rng(seed)
    each = []
    for _ in range(repeats):
        true = gain + spread * random.standard_normal()
        wins, losses = 0.03 + true / 2, 0.03 - true / 2
        drawn = random.random(examples)
        each.append(np.where(drawn < wins, 1.0, np.where(drawn > 1 - losses, -1.0, 0.0)))
    mean = np.mean(each, axis=0)
    return [float(one.mean()) for one in each], float(mean.std(ddof=1) / math.sqrt(examples))


# With two repeats Student's interval is wide, and it is never narrower than the test split allows.
@pytest.mark.parametrize(("repeats", "most"), [(2, 0.995), (3, 0.98), (5, 0.98)])
def test_interval_over_repeats_covers_a_known_gain(repeats, most):
    covered = 0
    for number in range(TRIES):
        differences, sampling = simulate(0.01, seed=number, repeats=repeats)
        gain = estimate_gain(differences, sampling=sampling)
        covered += gain.low <= 0.01 <= gain.high
    assert 0.90 <= covered / TRIES <= most


def test_verdict_is_rarely_better_or_worse_without_a_gain():
    verdicts = []
    for number in range(TRIES):
        differences, sampling = simulate(0.0, seed=10_000 + number)
        gain = estimate_gain(differences, sampling=sampling)
        verdicts.append(decide_verdict(gain.low, gain.high))
    assert verdicts.count("better") <= 0.05 * TRIES
    assert verdicts.count("worse") <= 0.05 * TRIES


def test_interval_excludes_zero_if_and_only_if_p_is_below_its_level():
    for number in range(300):
        differences, sampling = simulate(0.006, seed=number)
        for alpha in (0.05, 0.0125):
            gain = estimate_gain(differences, sampling=sampling, alpha=alpha)
            assert (gain.p < alpha) == (decide_verdict(gain.low, gain.high) != "inconclusive")


def test_equal_repeats_on_a_small_test_split_are_inconclusive():
    gain = estimate_gain([1 / 360] * 3, sampling=0.003)
    assert decide_verdict(gain.low, gain.high) == "inconclusive"
    assert gain.mean == pytest.approx(1 / 360)


def test_equal_models_are_inconclusive():
    gain = estimate_gain([0.0, 0.0, 0.0], sampling=0.0)
    assert (gain.low, gain.high, gain.p) == (0.0, 0.0, 1.0)
    assert decide_verdict(gain.low, gain.high) == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "inconclusive")]
)
def test_verdict_follows_from_the_interval(low, high, word):
    assert decide_verdict(low, high) == word


@pytest.mark.parametrize(("examples", "points"), [(360, 3.7), (10_000, 0.69)])
def test_smallest_visible_gain_at_six_percent_disagreement(examples, points):
    assert 100 * smallest_visible_gain(examples, 0.06) == pytest.approx(points, abs=0.1)


@pytest.mark.parametrize(("examples", "disagreement"), [(400, 0.1), (4000, 0.06)])
def test_smallest_visible_gain_is_significant_with_80_percent_power(examples, disagreement):
    gain = smallest_visible_gain(examples, disagreement)
    random = np.random.default_rng(3)
    wins, losses = (disagreement + gain) / 2, (disagreement - gain) / 2
    drawn = random.multinomial(examples, [wins, losses, 1 - wins - losses], TRIES)
    power = np.mean([PairedDecisions(examples, int(one), int(other)).mcnemar() < 0.05 for one, other, _ in drawn])
    assert 0.75 <= power <= 0.86


def test_exact_and_normal_power_agree_where_they_meet():
    few, many = smallest_visible_gain(1000, (MANY - 1) / 1000), smallest_visible_gain(1000, (MANY + 1) / 1000)
    assert few == pytest.approx(many, rel=0.05)


def test_a_test_split_that_is_too_small_has_no_visible_gain():
    assert smallest_visible_gain(20, 0.05) is None
    assert smallest_visible_gain(1000, 0.0) is None
