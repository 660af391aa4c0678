"""How long a model takes for one request: host array in, host array out, several models in turns."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from kdcli.evaluation.latency.session import Samples, Session
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES, Subject, SubjectFactory, TimedRequest
from kdcli.events import OnEvent, Progress, ignore_event
from kdcli.runs.latency_results import SAMPLES_FOR_P99

BATCH_SIZES = (1, 8, 32)
BLOCK_REQUESTS = (10, 20)
ROUNDS = 30
# Below this a single call is lost in the clock.
SHORTEST_SAMPLE_NANOSECONDS = 50_000
WARM_UP_CALLS, WARM_UP_SECONDS, WARM_UP_LIMIT_SECONDS = 10, 0.5, 10.0
# Mean rates of larger batches need no steady median.
RATE_WARM_UP_SECONDS = 1.0
STEADY_CHANGE, STEADY_WINDOW = 0.02, 20
# What a machine does meanwhile comes and goes within a second or so.
LEAST_SESSION_SECONDS = 2.0


def time_at_batches(
    entrants: Mapping[str, SubjectFactory],
    *,
    seed: int,
    seconds: float = 10.0,
    batches: Sequence[int] = BATCH_SIZES,
    on_event: OnEvent = ignore_event,
) -> Session:
    """Time models at batch 1, then examples a second at larger batches.

    Args:
        entrants: by name, what is timed at each batch.
        seed: of the order.
        seconds: about how long to time, warm-up left out; the first batch has half of it.
        batches: the first gives the session, the others only rates.
        on_event: told of progress.
    """
    session: Session | None = None
    rates: dict[str, dict[int, float]] = {name: {} for name in entrants}
    for number, batch in enumerate(batches):
        made = {name: at(batch) for name, at in entrants.items()}
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
    """Time models in turns: in each round one block of requests to every model, in shuffled order.

    Args:
        subjects: by name; a subject may stand under two names, which gives a noise floor.
        pools: requests of real examples for each of them.
        seed: of the order and of the requests.
        rounds: at least so many; with `seconds` more, until there are 1,000 samples in two seconds.
        block: least and most requests in a block, the same for all models of a round; fewer where `rounds`
            blocks would not fit into `seconds`.
        seconds: about how long all rounds may take; `rounds` take what they need when left out.
        warm_limit: seconds after which a subject that is not steady is timed nevertheless.
        on_event: told of progress.
    """
    random = np.random.default_rng(seed)
    warm = {name: _warmed(subject, pools[name], warm_limit) for name, subject in subjects.items()}
    calls = {name: max(1, math.ceil(SHORTEST_SAMPLE_NANOSECONDS / each)) for name, (each, _) in warm.items()}
    sizes = _sizes(block, sum(each * calls[name] for name, (each, _) in warm.items()), rounds, seconds)
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in subjects}
    before, done, count = _load(), 0, 0
    began = time.perf_counter()
    with _frozen():
        while done < rounds or _goes_on(count, time.perf_counter() - began, seconds):
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
            subject.runtime,
            subject.threads,
            _batch_of(pools[name][0]),
            tuple(blocks[name]),
            calls[name],
            warm[name][1],
            # Other runtimes run a file in one way.
            getattr(subject, "instances", 1),
        )
        for name, subject in subjects.items()
    }
    return Session(seed, samples, (before, _load()))


def _warmed(subject: Subject, pool: list[TimedRequest], limit: float) -> tuple[float, bool]:
    """Call until the times are steady; gives the last median in nanoseconds, and whether they are."""
    taken: list[int] = []
    began = time.perf_counter()
    while True:
        spent = time.perf_counter() - began
        # Slow models are asked one by one, so that the limit is kept.
        size = 1 if not taken or taken[-1] > 10_000_000 else 10
        taken += subject.time_block([pool[(len(taken) + step) % len(pool)] for step in range(size)]).tolist()
        if len(taken) < WARM_UP_CALLS or spent < WARM_UP_SECONDS:
            continue
        last = float(np.median(taken[-STEADY_WINDOW:]))
        previous = taken[-2 * STEADY_WINDOW : -STEADY_WINDOW]
        if len(previous) == STEADY_WINDOW and abs(last / float(np.median(previous)) - 1) <= STEADY_CHANGE:
            return last, True
        if spent > limit:
            # A model too slow for two windows has not shown that it is unsteady.
            return last, len(previous) < STEADY_WINDOW


def _sizes(block: tuple[int, int], each: float, rounds: int, seconds: float | None) -> tuple[int, int]:
    if seconds is None:
        return block
    fits = max(1, int(seconds * 1e9 / (each * rounds)))
    return min(block[0], fits), min(block[1], fits)


def _goes_on(samples: int, spent: float, seconds: float | None) -> bool:
    wanted = samples < SAMPLES_FOR_P99 or spent < LEAST_SESSION_SECONDS
    return seconds is not None and wanted and spent < seconds


def _batch_of(request: TimedRequest) -> int:
    return len(request[0] if isinstance(request, tuple) else request)


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


@contextmanager
def _frozen() -> Iterator[None]:
    """Without garbage collection, which would fall on whoever is timed just then."""
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
