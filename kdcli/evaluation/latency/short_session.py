"""A model's work and its latency at a glance, for plans: about a tenth of a second beside compiling."""

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

# The first calls choose how the graph is run.
FIRST_CALLS, SHORT_SESSION_CALLS, SHORT_SESSION_SECONDS = 5, 50, 0.1


@dataclass(frozen=True)
class ShortTiming:
    """What one answer of a model costs.

    Args:
        flops: None where the graph hides them.
        runtime, threads: what ran it.
        batch: examples in a request.
        p50_ms: median of the requests; a comparison times longer and in turns.
    """

    flops: int | None
    runtime: str
    threads: int
    batch: int
    p50_ms: float

    def to_json(self) -> dict[str, Any]:
        """`flops` and `latency` of a model in a document."""
        latency = asdict(self)
        return {"flops": latency.pop("flops"), "latency": latency}


def run_short_session(network: Network, raw: Mapping[str, np.ndarray]) -> ShortTiming:
    """Count and time a network at batch 1, in TensorFlow on this machine.

    Args:
        network: with its preparations, which are done before.
        raw: a few real examples by input name.
    """
    with preserve_values(network.variables):
        subject = KerasSubject(network)
        requests = make_requests(preprocess_examples(network.preprocessing, raw), 1)
        subject.time_block([requests[0]] * FIRST_CALLS)
        began, taken = time.perf_counter(), subject.time_block(requests[:1]).tolist()
        while len(taken) < SHORT_SESSION_CALLS and time.perf_counter() - began < SHORT_SESSION_SECONDS:
            taken += subject.time_block(requests[len(taken) % len(requests) :][:1]).tolist()
    milliseconds = round(float(np.median(taken)) / 1e6, 4)
    return ShortTiming(count_graph_flops(subject.function), subject.runtime, subject.threads, 1, milliseconds)
