"""The largest student that meets targets, found by bisection."""

from __future__ import annotations

from collections.abc import Callable

from kdcli.errors import UsageError

# A target is searched for among this many fractions of the channels.
_STEPS = 256
SMALLEST_KEEP = 1 / _STEPS


def find_largest(
    fits: Callable[[float], bool], *, explain: Callable[[float], UsageError], most: float = 1.0
) -> float:
    """Find the largest fraction of the channels for which a student fits, by bisection.

    Args:
        fits: whether the student for a fraction meets all targets; more channels never fit better.
        explain: the error for the smallest student, if that does not fit.
        most: the largest fraction to try.

    Raises:
        UsageError: the smallest student does not fit.
    """
    if fits(most):
        return most
    least, above = 1, round(most * _STEPS)
    if not fits(SMALLEST_KEEP):
        raise explain(SMALLEST_KEEP)
    while above - least > 1:
        middle = (least + above) // 2
        if fits(middle / _STEPS):
            least = middle
        else:
            above = middle
    return least / _STEPS
