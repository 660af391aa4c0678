"""What is said before a comparison, without training."""

from __future__ import annotations

import pytest

from kdcli.comparison.arms import Arm
from kdcli.comparison.dry_run import describe_repeats


@pytest.mark.parametrize(
    ("repeats", "words"),
    [
        (1, "one pair has no variance estimate"),
        # Quantiles of Student's t for one and two degrees of freedom.
        (2, "their 95% interval is ±12.7 standard errors, compared with ±4.3 for three"),
        (3, None),
    ],
)
def test_fewer_than_three_pairs_are_warned_about(repeats, words):
    arms = [
        Arm(name, name, request=None, baseline=baseline, seeds=tuple(range(repeats)))
        for name, baseline in (("scratch", None), ("d", "scratch"))
    ]
    found = describe_repeats(arms)
    assert len(found) == (words is not None)
    assert words is None or (words in found[0] and "--repeats 3" in found[0])
