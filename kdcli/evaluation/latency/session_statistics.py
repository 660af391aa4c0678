"""The results of a latency session: quantiles, ratios with intervals, and doubts about its stability."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kdcli.runs.latency_results import SAMPLES_FOR_P99, Ratio, Timing

RESAMPLES = 1000
# Fraction of the intervals of two equal models that may miss 1.
RATIO_ALPHA, FLOOR_ALPHA = 0.05, 0.001
# How far the noise floor may be from 1, and the two halves of a session from each other.
FLOOR_MARGIN, MAX_DRIFT = 0.02, 0.10
# Running processes per core, including this one.
BUSY_LOAD_PER_CORE = 2.0


@dataclass(frozen=True)
class Samples:
    """The times of one subject in a session.

    Args:
        runtime, threads, batch: as in `Timing`.
        blocks: nanoseconds for each request, one array for each round.
        calls_per_sample: number of successive calls whose mean is a sample.
        instances: number of compiled functions that were used in turn, one each round.
        steady: whether the times were steady after warm-up.
    """

    runtime: str
    threads: int
    batch: int
    blocks: tuple[np.ndarray, ...]
    calls_per_sample: int = 1
    steady: bool = True
    instances: int = 1

    @property
    def all(self) -> np.ndarray:
        """Every sample in milliseconds."""
        return np.concatenate(self.blocks) / 1e6


@dataclass(frozen=True)
class Session:
    """Several subjects, timed in turns.

    Args:
        seed: RNG seed of the order, and for the resampling.
        subjects: samples by name; all subjects have the same rounds.
        load: load average over one minute, before and after the session.
        rates: examples per second by name and batch size, including the batch size of the session.
    """

    seed: int
    subjects: Mapping[str, Samples]
    load: tuple[float, float] = (0.0, 0.0)
    rates: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return min((len(samples.blocks) for samples in self.subjects.values()), default=0)

    def summarize(self, name: str) -> Timing:
        """The timing of one subject."""
        samples = self.subjects[name]
        times = samples.all
        low, high = np.quantile(times, (0.25, 0.75))
        rates = self.rates.get(name) or {samples.batch: samples.batch / float(times.mean()) * 1e3}
        best = max(rates, key=lambda batch: rates[batch])
        return Timing(
            runtime=samples.runtime,
            threads=samples.threads,
            batch=samples.batch,
            p50_ms=float(np.median(times)),
            p90_ms=float(np.quantile(times, 0.9)),
            p99_ms=float(np.quantile(times, 0.99)) if len(times) >= SAMPLES_FOR_P99 else None,
            examples_per_second=rates[best],
            mean_ms=float(times.mean()),
            sd_ms=float(times.std(ddof=1)) if len(times) > 1 else 0.0,
            samples=len(times),
            calls_per_sample=samples.calls_per_sample,
            outliers=int((times > high + 3 * (high - low)).sum()),
            best_batch=best,
        )

    def ratio(self, name: str, to: str, *, alpha: float = RATIO_ALPHA) -> Ratio:
        """The median time of `name` divided by that of `to`, with an interval.

        The interval is a bootstrap over rounds (Efron & Tibshirani 1993). Each draw takes whole rounds of both
        subjects together, because whatever slows down a round slows down both.

        Args:
            name, to: names of the subjects.
            alpha: fraction of intervals that may miss the true ratio.
        """
        one, other = self.subjects[name], self.subjects[to]
        random = np.random.default_rng(self.seed)
        # Rounds of the same compiled functions are drawn together: their lasting differences are not noise.
        together = max(one.instances, other.instances)
        groups = together if 1 < together <= self.rounds // 2 else self.rounds
        drawn = random.integers(0, groups, (RESAMPLES, groups))
        # How often each draw contains each round.
        counts = np.apply_along_axis(np.bincount, 1, drawn, minlength=groups)[:, np.arange(self.rounds) % groups]
        ratios = _compute_medians(one.blocks, counts) / _compute_medians(other.blocks, counts)
        low, high = np.quantile(ratios, (alpha / 2, 1 - alpha / 2))
        value = float(np.median(one.all) / np.median(other.all))
        return Ratio(value, min(float(low), value), max(float(high), value))

    def noise_floor(self, one: str, other: str) -> Ratio:
        """The ratio of two subjects with the same graph, with a 99.9% interval: the resolution of this session."""
        return self.ratio(one, other, alpha=FLOOR_ALPHA)

    def doubts(self, floor: Ratio | None = None) -> tuple[str, ...]:
        """Why the times may not be reliable, one sentence each.

        A session is unstable if a subject was not steady after its warm-up, if the medians of its first and second
        half differ by more than 10%, if the load was above two processes per core, or if the noise floor excludes
        1 by more than 2%.

        Args:
            floor: result of `noise_floor`, if two subjects have the same graph.
        """
        doubts = []
        for name, samples in self.subjects.items():
            if not samples.steady:
                doubts.append(f"timing of {name} was not steady after warm-up")
            change = _measure_drift(samples.blocks)
            if abs(change) > MAX_DRIFT:
                direction = "slower" if change > 0 else "faster"
                doubts.append(f"timing of {name} drifted during the session ({abs(change):.0%} {direction})")
        cores = os.cpu_count() or 1
        if max(self.load) > BUSY_LOAD_PER_CORE * cores:
            doubts.append(f"the machine was busy (load {max(self.load):.1f} on {cores} cores)")
        if floor is not None and floor.excludes_one(FLOOR_MARGIN):
            interval = f"{floor.value:.3f} [{floor.low:.3f}, {floor.high:.3f}]"
            doubts.append(f"two models with the same graph differ in time: ratio {interval}")
        return tuple(doubts)


def _compute_medians(blocks: tuple[np.ndarray, ...], counts: np.ndarray) -> np.ndarray:
    """The median of all samples of each draw; `counts` (draws, rounds) is how often it contains each round."""
    times = np.concatenate(blocks)
    order = np.argsort(times)
    rounds = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])[order]
    reached = np.cumsum(counts[:, rounds], axis=1, dtype=np.int32)
    total = reached[:, -1:]
    lower, upper = (reached > (total - 1) // 2).argmax(1), (reached > total // 2).argmax(1)
    return (times[order][lower] + times[order][upper]) / 2


def _measure_drift(blocks: tuple[np.ndarray, ...]) -> float:
    """The relative change of the median time from the first to the second half of the rounds."""
    half = len(blocks) // 2
    if not half:
        return 0.0
    first, second = (float(np.median(np.concatenate(part))) for part in (blocks[:half], blocks[half:]))
    return second / first - 1
