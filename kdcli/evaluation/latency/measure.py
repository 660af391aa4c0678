"""Measure the latency of several models in turns, from host array to host array."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from kdcli.evaluation.latency.session_statistics import Samples, Session
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES, Subject, SubjectFactory, TimedRequest
from kdcli.events import OnEvent, Progress, ignore_event
from kdcli.runs.latency_results import SAMPLES_FOR_P99

BATCH_SIZES = (1, 8, 32)
BLOCK_REQUESTS = (10, 20)
ROUNDS = 30
# A shorter call cannot be resolved by the clock; several are timed as one sample.
SHORTEST_SAMPLE_NANOSECONDS = 50_000
WARM_UP_CALLS, WARM_UP_SECONDS, WARM_UP_LIMIT_SECONDS = 10, 0.5, 10.0
# The mean rates of larger batches need no steady median.
RATE_WARM_UP_SECONDS = 1.0
STEADY_CHANGE, STEADY_WINDOW = 0.02, 20
# Disturbances by other processes come and go within about a second.
LEAST_SESSION_SECONDS = 2.0


def time_at_batches(
    entrants: Mapping[str, SubjectFactory],
    *,
    seed: int,
    seconds: float = 10.0,
    batches: Sequence[int] = BATCH_SIZES,
    on_event: OnEvent = ignore_event,
) -> Session:
    """Measure latency at the first batch size, and examples per second at all batch sizes.

    Args:
        entrants: factories of what is timed at each batch size, by name.
        seed: RNG seed of the order.
        seconds: approximate duration without warm-up; the first batch size gets half of it.
        batches: batch sizes; the first gives the session, the others only rates.
        on_event: receives the progress.
    """
    session: Session | None = None
    rates: dict[str, dict[int, float]] = {name: {} for name in entrants}
    for number, batch in enumerate(batches):
        made = {name: factory(batch) for name, factory in entrants.items()}
        timed = time_models(
            {name: subject for name, (subject, _) in made.items()},
            {name: pool for name, (_, pool) in made.items()},
            seed=seed,
            seconds=seconds / (2 if number == 0 else 2 * (len(batches) - 1)),
            warm_limit=WARM_UP_LIMIT_SECONDS if number == 0 else RATE_WARM_UP_SECONDS,
            on_event=on_event,
        )
        session = session or timed
        for name, samples in timed.subjects.items():
            rates[name][batch] = batch / float(samples.all.mean()) * 1e3
    assert session is not None
    return replace(session, rates=rates)


def time_models(
    subjects: Mapping[str, Subject],
    pools: Mapping[str, list[TimedRequest]],
    *,
    seed: int,
    rounds: int = ROUNDS,
    block: tuple[int, int] = BLOCK_REQUESTS,
    seconds: float | None = None,
    warm_limit: float = WARM_UP_LIMIT_SECONDS,
    on_event: OnEvent = ignore_event,
) -> Session:
    """Time models in turns: each round sends one block of requests to every model, in shuffled order.

    Args:
        subjects: models by name; the same model under two names gives a noise floor.
        pools: requests of real examples, by name.
        seed: RNG seed of the order and the requests.
        rounds: minimum number of rounds. With `seconds`, rounds continue until there are 1,000 samples and two
            seconds have passed.
        block: minimum and maximum number of requests in a block, the same for all models of a round; smaller if
            `rounds` blocks would not fit into `seconds`.
        seconds: approximate limit for all rounds; no limit by default.
        warm_limit: seconds after which a subject is timed even if it is not steady.
        on_event: receives the progress.
    """
    random = np.random.default_rng(seed)
    warm = {name: _warm_up(subject, pools[name], warm_limit) for name, subject in subjects.items()}
    calls = {name: max(1, math.ceil(SHORTEST_SAMPLE_NANOSECONDS / each)) for name, (each, _) in warm.items()}
    sizes = _choose_block_size(block, sum(each * calls[name] for name, (each, _) in warm.items()), rounds, seconds)
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in subjects}
    before, done, count = _read_load(), 0, 0
    began = time.perf_counter()
    with _pause_garbage_collection():
        while done < rounds or _needs_more(count, time.perf_counter() - began, seconds):
            size = int(random.integers(sizes[0], sizes[1] + 1))
            positions = random.integers(0, POOL_EXAMPLES, size)
            for name in random.permutation(sorted(subjects)).tolist():
                pool, repeat = pools[name], calls[name]
                requests = [pool[position % len(pool)] for position in positions for _ in range(repeat)]
                taken = subjects[name].time_block(requests)
                blocks[name].append(taken.reshape(size, repeat).mean(1))
            done, count = done + 1, count + size
            on_event(Progress("latency", done, max(done, rounds), "rounds"))
    samples = {
        name: Samples(
            runtime=subject.runtime,
            threads=subject.threads,
            batch=_get_batch_size(pools[name][0]),
            blocks=tuple(blocks[name]),
            calls_per_sample=calls[name],
            steady=warm[name][1],
            # Only TensorFlow subjects are compiled several times.
            instances=getattr(subject, "instances", 1),
        )
        for name, subject in subjects.items()
    }
    return Session(seed, samples, (before, _read_load()))


def _warm_up(subject: Subject, pool: list[TimedRequest], limit: float) -> tuple[float, bool]:
    """Call until the times are steady; the last median in nanoseconds, and whether they are steady."""
    taken: list[int] = []
    began = time.perf_counter()
    while True:
        spent = time.perf_counter() - began
        # Slow models get single calls, so that the limit is not exceeded by much.
        size = 1 if not taken or taken[-1] > 10_000_000 else 10
        taken += subject.time_block([pool[(len(taken) + step) % len(pool)] for step in range(size)]).tolist()
        if len(taken) < WARM_UP_CALLS or spent < WARM_UP_SECONDS:
            continue
        last = float(np.median(taken[-STEADY_WINDOW:]))
        previous = taken[-2 * STEADY_WINDOW : -STEADY_WINDOW]
        if len(previous) == STEADY_WINDOW and abs(last / float(np.median(previous)) - 1) <= STEADY_CHANGE:
            return last, True
        if spent > limit:
            # A model that is too slow for two windows is not known to be unsteady.
            return last, len(previous) < STEADY_WINDOW


def _choose_block_size(block: tuple[int, int], each: float, rounds: int, seconds: float | None) -> tuple[int, int]:
    if seconds is None:
        return block
    fits = max(1, int(seconds * 1e9 / (each * rounds)))
    return min(block[0], fits), min(block[1], fits)


def _needs_more(samples: int, spent: float, seconds: float | None) -> bool:
    too_few = samples < SAMPLES_FOR_P99 or spent < LEAST_SESSION_SECONDS
    return seconds is not None and too_few and spent < seconds


def _get_batch_size(request: TimedRequest) -> int:
    return len(request[0] if isinstance(request, tuple) else request)


def _read_load() -> float:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


@contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Pause garbage collection, which would slow down an arbitrary subject."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
