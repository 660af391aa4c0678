"""What a latency session says: quantiles, ratios with intervals, and whether it can be trusted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kdcli.runs.latency_results import SAMPLES_FOR_P99, Ratio, Timing

RESAMPLES = 1000
# The share of intervals of two equal models that may miss 1.
RATIO_ALPHA, FLOOR_ALPHA = 0.05, 0.001
# How far the noise floor may lie from 1, and the two halves of a session from each other.
FLOOR_MARGIN, MAX_DRIFT = 0.02, 0.10
# Of running processes for each core, this one counted.
BUSY_LOAD_PER_CORE = 2.0


@dataclass(frozen=True)
class Samples:
    """The times of one subject.

    Args:
        runtime, threads, batch: as in `Timing`.
        blocks: nanoseconds for one request, an array for each round.
        calls_per_sample: successive calls of which a sample is the mean.
        instances: how many compiled functions took the rounds in turn.
        settled: whether the times had become steady before the first round.
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
    """Several subjects timed in turns.

    Args:
        seed: of the order and of the resampling.
        subjects: their samples by name; the rounds belong together.
        load: processes that wanted to run, averaged over a minute, before and after.
        rates: examples a second by name and batch, the session's own batch included.
    """

    seed: int
    subjects: Mapping[str, Samples]
    load: tuple[float, float] = (0.0, 0.0)
    rates: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """How many rounds there were."""
        return min((len(samples.blocks) for samples in self.subjects.values()), default=0)

    def summarize(self, name: str) -> Timing:
        """The figures of one subject."""
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
        """How many times as long `name` takes as `to`: the ratio of medians, with an interval.

        The interval is a bootstrap over rounds (Efron & Tibshirani 1993): each draw takes whole rounds, of both
        subjects together, so that what slows a round down slows both.

        Args:
            name, to: subjects.
            alpha: share of intervals that may miss.
        """
        one, other = self.subjects[name], self.subjects[to]
        random = np.random.default_rng(self.seed)
        # Rounds of the same compiled functions are drawn together: what these have for good is no noise of rounds.
        together = max(one.instances, other.instances)
        groups = together if 1 < together <= self.rounds // 2 else self.rounds
        drawn = random.integers(0, groups, (RESAMPLES, groups))
        # How often each round is in each draw.
        counts = np.apply_along_axis(np.bincount, 1, drawn, minlength=groups)[:, np.arange(self.rounds) % groups]
        ratios = _medians(one.blocks, counts) / _medians(other.blocks, counts)
        low, high = np.quantile(ratios, (alpha / 2, 1 - alpha / 2))
        value = float(np.median(one.all) / np.median(other.all))
        return Ratio(value, min(float(low), value), max(float(high), value))

    def noise_floor(self, one: str, other: str) -> Ratio:
        """The ratio of two subjects that share a graph, with a 99.9 % interval: what this session calls equal."""
        return self.ratio(one, other, alpha=FLOOR_ALPHA)

    @property
    def stable(self) -> bool:
        """Whether nothing speaks against the figures: see `doubts`."""
        return not self.doubts()

    def doubts(self, floor: Ratio | None = None) -> tuple[str, ...]:
        """Why the figures may not hold, a sentence each.

        A session is unstable when a subject had not become steady within its warm-up, when the medians of its
        first and second half differ by more than 10 %, when more than two processes for each core wanted to
        run, or when the noise floor excludes 1 by more than 2 %.

        Args:
            floor: of `noise_floor`, where two subjects share a graph.
        """
        found = []
        for name, samples in self.subjects.items():
            if not samples.steady:
                found.append(f"{name} had not become steady when its warm-up ended")
            change = _drift(samples.blocks)
            if abs(change) > MAX_DRIFT:
                way = "slower" if change > 0 else "faster"
                found.append(f"{name} became {abs(change):.0%} {way} meanwhile")
        cores = os.cpu_count() or 1
        if max(self.load) > BUSY_LOAD_PER_CORE * cores:
            found.append(f"the machine was busy (load {max(self.load):.1f} on {cores} cores)")
        if floor is not None and floor.excludes_one(FLOOR_MARGIN):
            interval = f"{floor.value:.3f} [{floor.low:.3f}, {floor.high:.3f}]"
            found.append(f"two models of one graph take different times: ratio {interval}")
        return tuple(found)


def _medians(blocks: tuple[np.ndarray, ...], counts: np.ndarray) -> np.ndarray:
    """The median of all samples of each draw, every round taken as often as `counts` (draws, rounds) says."""
    times = np.concatenate(blocks)
    order = np.argsort(times)
    rounds = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])[order]
    reached = np.cumsum(counts[:, rounds], axis=1, dtype=np.int32)
    total = reached[:, -1:]
    lower, upper = (reached > (total - 1) // 2).argmax(1), (reached > total // 2).argmax(1)
    return (times[order][lower] + times[order][upper]) / 2


def _drift(blocks: tuple[np.ndarray, ...]) -> float:
    """How much longer, as a share, a request took in the second half of the rounds than in the first."""
    half = len(blocks) // 2
    if not half:
        return 0.0
    first, second = (float(np.median(np.concatenate(part))) for part in (blocks[:half], blocks[half:]))
    return second / first - 1
