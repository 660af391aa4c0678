"""Intervals, against scipy."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from kdcli.evaluation.statistics import wilson


@pytest.mark.parametrize("trials", [1, 2, 10, 360, 10_000])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97, 1.0])
def test_the_wilson_interval_equals_scipys(trials, share):
    successes = round(share * trials)
    expected = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_measured_is_every_share():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("trials", [1, 3, 50])
def test_the_interval_stays_inside_the_shares_and_holds_the_point(trials):
    for successes in range(trials + 1):
        low, high = wilson(successes, trials)
        share, rounding = successes / trials, 1e-15
        assert 0.0 <= low <= share + rounding
        assert share - rounding <= high <= 1.0
