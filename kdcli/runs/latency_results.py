"""Frozen figures of how fast models are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# From so many samples on the slowest hundredth is more than a handful.
SAMPLES_FOR_P99 = 1000
FEW_SAMPLES = f"p99: -, it needs {SAMPLES_FOR_P99:,} samples"


@dataclass(frozen=True)
class Timing:
    """One model in one session; milliseconds for one request.

    Args:
        runtime: what ran it: `tensorflow`, `litert`, `onnxruntime`.
        threads: that it could use.
        batch: examples in a request.
        p50_ms, p90_ms: quantiles.
        p99_ms: None below 1,000 samples.
        mean_ms, sd_ms: over all samples; none is removed.
        samples: how many.
        calls_per_sample: above 1 where one call is too short to be timed alone.
        outliers: samples above the third quartile by more than three times the quartiles' distance.
        examples_per_second: at the best batch.
        best_batch: that batch.
    """

    runtime: str
    threads: int
    batch: int
    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    examples_per_second: float
    mean_ms: float
    sd_ms: float
    samples: int
    calls_per_sample: int
    outliers: int
    best_batch: int

    def to_json(self) -> dict[str, Any]:
        """`latency` of a model in a document."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """How many times as long one model takes as another, by medians, with an interval."""

    value: float
    low: float
    high: float

    def excludes_one(self, margin: float = 0.0) -> bool:
        """Whether the whole interval is further from 1 than a margin."""
        return self.low > 1 + margin or self.high < 1 - margin

    def to_json(self) -> dict[str, float]:
        """As a document shows it."""
        return asdict(self)
