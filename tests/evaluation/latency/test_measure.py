"""Timing models in turns: order, warm-up, blocks and time limit, on simulated subjects and one real network."""

from __future__ import annotations

import gc
import time

import keras
import numpy as np
import pytest

from kdcli.evaluation.latency import measure
from kdcli.evaluation.latency.measure import time_at_batches, time_models
from kdcli.evaluation.latency.subjects import (
    MAX_INSTANCES,
    KerasSubject,
    make_keras_factory,
    make_requests,
    make_runner_factory,
)
from kdcli.events import Progress
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing


class Simulated:
    """Returns at once, with simulated times of `each` nanoseconds per example."""

    runtime, threads = "simulated", 1

    def __init__(self, each, *, log=None, name="", warm=()):
        self.each, self.log, self.name, self.warm = each, log, name, list(warm)

    def time_block(self, requests):
        if self.log is not None:
            self.log.append((self.name, [float(np.ravel(request)[0]) for request in requests]))
        taken = np.array([self.each * len(request) for request in requests], np.int64)
        if self.warm:
            taken[:] = self.warm.pop(0)
        return taken


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measure, "WARM_UP_SECONDS", 0.01)


POOL = [np.full((1, 2), number, np.float32) for number in range(256)]


def timed(each, **options):
    log = []
    subjects = {name: Simulated(one, log=log, name=name) for name, one in each.items()}
    session = time_models(subjects, dict.fromkeys(each, POOL), **{"seed": 0, **options})
    rounds = log[-len(each) * session.rounds :]
    return session, [rounds[start : start + len(each)] for start in range(0, len(rounds), len(each))]


def test_every_round_sends_the_same_requests_to_all_models_in_a_seeded_order():
    each = {"a": 100_000, "b": 200_000, "c": 300_000}
    session, rounds = timed(each)
    assert session.rounds == len(rounds) == 30
    orders = [tuple(name for name, _ in one) for one in rounds]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 3
    for one in rounds:
        assert one[0][1] == one[1][1] == one[2][1]
        assert 10 <= len(one[0][1]) <= 20
    assert len({len(one[0][1]) for one in rounds}) > 3
    assert timed(each)[1] == rounds
    assert timed(each, seed=1)[1] != rounds


def test_times_equal_those_of_the_subjects():
    session, _ = timed({"a": 100_000, "b": 250_000})
    assert session.summarize("a").p50_ms == 0.1
    assert session.summarize("b").p90_ms == 0.25
    assert (session.ratio("b", "a").value, session.ratio("b", "a").low) == (2.5, 2.5)
    assert session.summarize("a").calls_per_sample == 1
    assert session.summarize("a").runtime == "simulated"


@pytest.mark.parametrize(("each", "calls"), [(50_000, 1), (49_999, 2), (14_000, 4)])
def test_calls_too_short_for_the_clock_are_timed_together(each, calls):
    session, rounds = timed({"a": each, "b": 1_000_000})
    timing = session.summarize("a")
    assert (timing.calls_per_sample, timing.p50_ms) == (calls, each / 1e6)
    for one in rounds:
        requests = dict(one)
        assert len(requests["a"]) == calls * len(requests["b"])
        assert requests["a"][::calls] == requests["b"]
    assert session.summarize("a").samples == session.summarize("b").samples


def test_time_limit_decides_the_size_of_blocks_and_the_number_of_rounds(monkeypatch):
    monkeypatch.setattr(measure, "LEAST_SESSION_SECONDS", 0.0)
    # 30 rounds of two models at 50 and 150 ms: 5 requests per block fit into 30 seconds.
    _, rounds = timed({"a": 50_000_000, "b": 150_000_000}, seconds=30)
    assert {len(one[0][1]) for one in rounds} == {5}
    session, rounds = timed({"a": 100_000, "b": 100_000}, seconds=30)
    assert session.summarize("a").samples >= 1000 > session.summarize("a").samples - 20
    assert len(rounds) > 50


def test_warm_up_ends_when_the_times_are_steady():
    falling = [900_000, 800_000, 500_000, 300_000, 100_000, 100_000, 100_000, 100_000]
    subject = Simulated(100_000, warm=falling)
    session = time_models({"a": subject}, {"a": POOL}, seed=0, rounds=3)
    assert subject.warm == []
    assert session.subjects["a"].steady
    assert session.summarize("a").p50_ms == 0.1


def test_warm_up_ends_after_its_limit():
    class Unsteady(Simulated):
        def time_block(self, requests):
            self.each = {1: 2, 2: 4, 4: 8, 8: 1}[self.each // 100_000] * 100_000
            return super().time_block(requests)

    session = time_models({"a": Unsteady(100_000)}, {"a": POOL}, seed=0, rounds=3, warm_limit=0.05)
    assert session.doubts()[0] == "timing of a was not steady after warm-up"


def test_garbage_collection_is_paused_during_timing():
    seen = []

    class Looking(Simulated):
        def time_block(self, requests):
            seen.append(gc.isenabled())
            return super().time_block(requests)

    time_models({"a": Looking(100_000)}, {"a": POOL}, seed=0, rounds=5)
    assert seen[-5:] == [False] * 5
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_progress_is_reported():
    events = []
    time_models({"a": Simulated(100_000)}, {"a": POOL}, seed=0, rounds=4, on_event=events.append)
    assert events == [Progress("latency", done, 4, "rounds") for done in (1, 2, 3, 4)]


def test_requests_have_at_most_256_real_examples():
    x = np.arange(300)[:, None]
    assert len(make_requests([x], 1)) == 256
    assert [request.ravel().tolist() for request in make_requests([x[:20]], 8)] == [
        list(range(8)),
        list(range(8, 16)),
    ]
    (only,) = make_requests([x[:3]], 8)
    assert only.ravel().tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    first = make_requests([x, x + 1000], 2)[0]
    assert [part.ravel().tolist() for part in first] == [[0, 1], [1000, 1001]]


def test_rates_of_larger_batches_are_added_to_the_first_session(monkeypatch):
    monkeypatch.setattr(measure, "LEAST_SESSION_SECONDS", 0.0)

    class Batched(Simulated):
        def time_block(self, requests):
            return np.array([200_000 + 25_000 * len(request) for request in requests], np.int64)

    entrants = {"a": make_runner_factory(Batched(0), [np.zeros((256, 2), np.float32)])}
    session = time_at_batches(entrants, seed=0, seconds=1)
    assert session.rates["a"] == pytest.approx({1: 1e9 / 225e3, 8: 8e9 / 400e3, 32: 32e9 / 1e6})
    timing = session.summarize("a")
    assert (timing.batch, timing.p50_ms, timing.best_batch) == (1, 0.225, 32)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    small = KerasNetwork(keras.Model(inputs, outputs), name="small")
    return small.with_preprocessing({"x": Preprocessing((6, 6), "uint8", (6, 6, 1), "float32", "signed")})


def test_requests_are_preprocessed_and_outputs_equal_those_of_the_network(network):
    raw = {"x": np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)}
    subject, pool = make_keras_factory(network, raw)(8)
    assert [request.shape for request in pool] == [(8, 6, 6, 1)] * 5
    assert (pool[0].dtype, pool[0].min() >= -1, pool[0].min() < -0.9) == (np.float32, True, True)
    outputs = next(subject._functions)(pool[1]).numpy()
    assert outputs == pytest.approx(network.compute_saved_output({"x": raw["x"][8:16]}).numpy(), abs=1e-6)
    taken = subject.time_block(pool)
    assert (taken.dtype, len(taken), (taken > 1000).all()) == (np.int64, 5, True)


@pytest.mark.serial
def test_ratio_of_a_real_network_to_itself_is_about_1(network):
    raw = {"x": np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)}
    subject, pool = make_keras_factory(network, raw)(1)
    assert isinstance(subject, KerasSubject) and subject.threads >= 1
    began = time.perf_counter()
    session = time_models({"a": subject, "again": subject}, {"a": pool, "again": pool}, seed=0, seconds=1)
    spent = time.perf_counter() - began
    # The precision is measured by a benchmark; a busy machine must not fail a test.
    assert 0.5 < session.ratio("a", "again").value < 2
    assert session.summarize("a").p50_ms < 1e3 * spent / session.summarize("a").samples
    assert session.rounds >= 30


def test_blocks_use_the_compiled_functions_of_a_model_in_turn(monkeypatch):
    calls = []

    def compile_counted(network, *, batch):
        number = len(made)
        made.append(number)

        def function(*tensors):
            calls.append(number)
            return tensors[0]

        return function

    made: list[int] = []
    monkeypatch.setattr("kdcli.evaluation.latency.subjects.compile_network", compile_counted)
    subject = KerasSubject(None, instances=3)
    for _ in range(4):
        subject.time_block([np.zeros((1, 2), np.float32)] * 2)
    assert calls == [0, 0, 1, 1, 2, 2, 0, 0]
    assert (subject.instances, MAX_INSTANCES > 3) == (3, True)
