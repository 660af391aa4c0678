"""The frozen results of latency measurements and their JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# The minimum for a p99: fewer samples have less than ten in the slowest hundredth.
SAMPLES_FOR_P99 = 1000
FEW_SAMPLES = f"p99: -, needs {SAMPLES_FOR_P99:,} samples"


@dataclass(frozen=True)
class Timing:
    """Latency of one model in one session, in milliseconds per request.

    Args:
        runtime: `tensorflow`, `litert`, `onnxruntime`, or the name of a latency command.
        threads: number of threads the runtime may use; 0 if unknown.
        batch: examples in a request.
        p50_ms, p90_ms: quantiles.
        p99_ms: quantile; None below 1,000 samples.
        mean_ms, sd_ms: mean and standard deviation over all samples, outliers included.
        samples: number of samples.
        calls_per_sample: above 1 if a single call is too short to be measured.
        outliers: number of samples more than three interquartile ranges above the third quartile.
        examples_per_second: throughput at the best batch size.
        best_batch: batch size with the highest throughput.
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

    @property
    def description(self) -> str:
        """The runtime with its threads, as tables show them."""
        return f"{self.runtime}, {self.threads} threads" if self.threads else self.runtime

    def to_json(self) -> dict[str, Any]:
        """`latency` of a model in a document."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """Ratio of the median latencies of two models, with an interval."""

    value: float
    low: float
    high: float

    def excludes_one(self, margin: float = 0.0) -> bool:
        """Whether the whole interval differs from 1 by more than a margin."""
        return self.low > 1 + margin or self.high < 1 - margin

    def to_json(self) -> dict[str, float]:
        """A ratio in a document."""
        return asdict(self)


@dataclass(frozen=True)
class ColdStart:
    """What a fresh process takes until the first output; medians of a few starts.

    Args:
        import_ms: to import the runtime.
        open_ms: to open the file.
        first_ms: to run it the first time.
        total_ms: from the start of the process to the first output.
        peak_mb: largest resident memory of the process, in 10^6 bytes.
    """

    import_ms: float
    open_ms: float
    first_ms: float
    total_ms: float
    peak_mb: float
