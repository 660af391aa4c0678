"""Confidence intervals, paired tests, and the smallest gain that a test set of a given size can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

ALPHA, POWER = 0.05, 0.8
# The exact McNemar test is too conservative; from this many disagreements on, the mid-p version is used.
EXACT_BELOW = 25
# From this many expected disagreements on, the power of the test is computed with the normal approximation.
MANY = 100
_NORMAL = NormalDist()
# The standard normal quantile of a two-sided 95% interval.
Z95 = _NORMAL.inv_cdf(1 - ALPHA / 2)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion (Wilson 1927)."""
    if trials == 0:
        return 0.0, 1.0
    proportion, spread = successes / trials, Z95 * Z95 / trials
    centre = (proportion + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(proportion * (1 - proportion) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def t_tails(t: float, freedom: int) -> float:
    """The two-sided tail probability of Student's t, by the finite series for integer degrees of freedom
    (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan2(abs(t), math.sqrt(freedom))
    cosine, term, total = math.cos(angle), 1.0, 0.0
    odd = freedom % 2
    if odd:
        term = cosine
    for step in range((freedom - 1) // 2 if odd else freedom // 2):
        total += term
        term *= cosine * cosine * ((2 * step + 2) / (2 * step + 3) if odd else (2 * step + 1) / (2 * step + 2))
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return max(0.0, 1 - inside)


def t_quantile(alpha: float, freedom: int) -> float:
    """The quantile of Student's t for a two-sided tail probability of `alpha`."""
    low, high = 0.0, 1.0
    while t_tails(high, freedom) > alpha:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tails(middle, freedom) > alpha else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class PairedDecisions:
    """How often two models classify the same examples differently.

    Args:
        examples: number of examples.
        wins: examples that only the second model classifies correctly.
        losses: examples that only the first model classifies correctly.
    """

    examples: int
    wins: int
    losses: int

    @property
    def difference(self) -> float:
        """The accuracy of the second model minus that of the first."""
        return (self.wins - self.losses) / self.examples

    @property
    def disagreement(self) -> float:
        """The fraction of examples that exactly one of the two models classifies correctly."""
        return (self.wins + self.losses) / self.examples

    def interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        """The interval of the difference, adjusted for small counts (Bonett & Price 2012,
        doi:10.3102/1076998611411915)."""
        trials = self.examples + 2
        wins, losses = (self.wins + 1) / trials, (self.losses + 1) / trials
        difference = wins - losses
        spread = math.sqrt((wins + losses - difference * difference) / trials)
        half = _NORMAL.inv_cdf(1 - alpha / 2) * spread
        return max(-1.0, difference - half), min(1.0, difference + half)

    def mcnemar(self) -> float:
        """McNemar's two-sided p: exact below 25 disagreements, else mid-p (Fagerland 2013,
        doi:10.1186/1471-2288-13-91)."""
        total, fewer = self.wins + self.losses, min(self.wins, self.losses)
        if total == 0:
            return 1.0
        logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(fewer + 1)]
        probabilities = [math.exp(value - total * math.log(2)) for value in logs]
        p = 2 * math.fsum(probabilities)
        return min(1.0, p if total < EXACT_BELOW else p - probabilities[-1])


@dataclass(frozen=True)
class Gain:
    """A mean difference with its interval and the p-value of no difference."""

    mean: float
    low: float
    high: float
    p: float


def estimate_gain(differences: Sequence[float], *, sampling: float, alpha: float = ALPHA) -> Gain:
    """The mean of differences paired by seed, with Student's t interval.

    All repeats use the same test split, so their spread does not cover which examples happen to be in it.
    The interval is therefore never narrower than that of the mean difference over the examples.

    Args:
        differences: second model minus first, one for each seed; two or more.
        sampling: standard error of the mean difference over the examples of the test split.
        alpha: fraction of intervals that may miss the true gain.
    """
    repeats, mean = len(differences), fmean(differences)
    error = stdev(differences) / math.sqrt(repeats)
    half = max(t_quantile(alpha, repeats - 1) * error, _NORMAL.inv_cdf(1 - alpha / 2) * sampling)
    over_repeats = t_tails(mean / error, repeats - 1) if error else float(mean == 0)
    over_examples = 2 * _NORMAL.cdf(-abs(mean) / sampling) if sampling else float(mean == 0)
    return Gain(mean, mean - half, mean + half, max(over_repeats, over_examples))


def holm_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """The level at which each of several comparisons is tested (Holm 1979), in the order given.

    The smallest p is tested at alpha / m, the next at alpha / (m - 1), and so on; after the first comparison that
    is not rejected, all others use its level. An interval at that level excludes 0 exactly where Holm's procedure
    rejects.
    """
    levels, level, failed = [alpha] * len(p_values), alpha, False
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        if not failed:
            level = alpha / (len(p_values) - rank)
            failed = not p_values[position] < level
        levels[position] = level
    return levels


def decide_verdict(low: float, high: float) -> str:
    """`better`, `worse` or `inconclusive`, from the interval of a gain."""
    return "better" if low > 0 else "worse" if high < 0 else "inconclusive"


def smallest_visible_gain(examples: int, disagreement: float) -> float | None:
    """The smallest gain that McNemar's test on this many examples detects with 80% power.

    Args:
        examples: number of test examples.
        disagreement: fraction of examples that exactly one of the two models classifies correctly.

    Returns:
        The gain as a fraction, or None when even a win on every such example would not be significant.
    """
    if not disagreement or _power(examples, disagreement, disagreement) < POWER:
        return None
    low, high = 0.0, disagreement
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(examples, disagreement, middle) >= POWER else (middle, high)
    return high


def _power(examples: int, disagreement: float, gain: float) -> float:
    """The probability that McNemar's p is below 0.05: exact over the counts, normal where there are many
    (Connor 1987, doi:10.2307/2531961)."""
    expected = examples * disagreement
    if expected > MANY:
        noise = math.sqrt(max(disagreement - gain * gain, 1e-12))
        return _NORMAL.cdf((gain * math.sqrt(examples) - Z95 * math.sqrt(disagreement)) / noise)
    win_rate, spread = min(1.0, (1 + gain / disagreement) / 2), math.sqrt(expected * (1 - disagreement))
    counts = range(max(1, int(expected - 5 * spread)), min(examples, int(expected + 5 * spread) + 1) + 1)
    return math.fsum(
        _binomial(examples, total, disagreement) * _significance_probability(total, win_rate) for total in counts
    )


def _significance_probability(total: int, win_rate: float) -> float:
    """The probability of a significant result in favour of the better model, given the number of disagreements."""
    most_losses = -1
    low, high = 0, total // 2
    while low <= high:
        middle = (low + high) // 2
        if PairedDecisions(total, total - middle, middle).mcnemar() < ALPHA:
            most_losses, low = middle, middle + 1
        else:
            high = middle - 1
    return math.fsum(_binomial(total, losses, 1 - win_rate) for losses in range(most_losses + 1))


def _binomial(trials: int, successes: int, probability: float) -> float:
    if probability in (0.0, 1.0):
        return float(successes == trials * probability)
    log = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    return math.exp(log + successes * math.log(probability) + (trials - successes) * math.log1p(-probability))
