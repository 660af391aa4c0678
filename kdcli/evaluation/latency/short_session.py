"""A quick measurement of FLOPs and latency for plans; it takes about 0.1 seconds after compiling."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdcli.evaluation.footprint import count_graph_flops
from kdcli.evaluation.latency.subjects import KerasSubject, make_requests, preprocess_examples
from kdcli.models.network import Network
from kdcli.models.variables import preserve_values

# In its first calls TensorFlow decides how the graph is run.
FIRST_CALLS, SHORT_SESSION_CALLS, SHORT_SESSION_SECONDS = 5, 50, 0.1


@dataclass(frozen=True)
class ShortTiming:
    """The cost of one prediction.

    Args:
        flops: floating point operations; None if they cannot be counted.
        runtime, threads: runtime and number of threads used.
        batch: number of examples in a request.
        p50_ms: median time of a request.
    """

    flops: int | None
    runtime: str
    threads: int
    batch: int
    p50_ms: float

    def to_json(self) -> dict[str, Any]:
        """The keys `flops` and `latency` of a model in a document."""
        latency = asdict(self)
        return {"flops": latency.pop("flops"), "latency": latency}


def run_short_session(network: Network, raw: Mapping[str, np.ndarray]) -> ShortTiming:
    """Count the FLOPs of a network, and time it in TensorFlow at batch size 1.

    Args:
        network: the network; its preprocessing is not timed.
        raw: a few real examples by input name.
    """
    with preserve_values(network.variables):
        subject = KerasSubject(network)
        requests = make_requests(preprocess_examples(network.preprocessing, raw), 1)
        subject.time_block([requests[0]] * FIRST_CALLS)
        began, taken = time.perf_counter(), subject.time_block(requests[:1]).tolist()
        while len(taken) < SHORT_SESSION_CALLS and time.perf_counter() - began < SHORT_SESSION_SECONDS:
            taken += subject.time_block(requests[len(taken) % len(requests) :][:1]).tolist()
    return ShortTiming(
        flops=count_graph_flops(subject.function),
        runtime=subject.runtime,
        threads=subject.threads,
        batch=1,
        p50_ms=round(float(np.median(taken)) / 1e6, 4),
    )
