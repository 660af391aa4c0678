"""The results of a latency session, for known times."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.evaluation.latency import session_statistics as module
from kdcli.evaluation.latency.session_statistics import Samples, Session
from kdcli.runs.latency_results import Ratio


def samples(times, *, rounds=20, batch=1, steady=True):
    """Times in milliseconds, split into rounds."""
    blocks = np.array_split(np.asarray(times, np.float64) * 1e6, rounds)
    return Samples("tensorflow", 2, batch=batch, blocks=tuple(blocks), steady=steady)


def noisy(median, *, count=400, spread=0.05, seed=0, slowed=None):
    times = median * np.exp(np.random.default_rng(seed).normal(0, spread, count))
    return times if slowed is None else times * np.repeat(slowed, count // len(slowed))


def test_quantiles_mean_and_deviation_equal_those_of_the_samples():
    times = np.arange(1, 1001) / 1000
    timing = Session(0, {"a": samples(times, batch=4)}).summarize("a")
    assert (timing.runtime, timing.threads, timing.batch, timing.samples) == ("tensorflow", 2, 4, 1000)
    assert timing.p50_ms == pytest.approx(0.5005)
    assert timing.p90_ms == pytest.approx(np.quantile(times, 0.9))
    assert timing.p99_ms == pytest.approx(np.quantile(times, 0.99))
    assert timing.mean_ms == pytest.approx(0.5005)
    assert timing.sd_ms == pytest.approx(times.std(ddof=1))
    assert timing.examples_per_second == pytest.approx(4 / 0.5005e-3)
    assert timing.best_batch == 4


@pytest.mark.parametrize(("count", "known"), [(999, False), (1000, True)])
def test_p99_needs_1000_samples(count, known):
    timing = Session(0, {"a": samples(np.ones(count))}).summarize("a")
    assert (timing.p99_ms is not None) == known


def test_outliers_are_counted_but_not_removed():
    times = np.r_[np.linspace(1, 2, 100), 50.0, 60.0]
    timing = Session(0, {"a": samples(times)}).summarize("a")
    assert (timing.outliers, timing.samples) == (2, 102)
    assert timing.mean_ms == pytest.approx(times.mean())


def test_best_rate_has_its_batch_size():
    rates = {"a": {1: 100.0, 8: 700.0, 32: 650.0}}
    timing = Session(0, {"a": samples(np.full(50, 10.0))}, rates=rates).summarize("a")
    assert (timing.examples_per_second, timing.best_batch, timing.batch) == (700.0, 8, 1)


def test_ratio_is_of_medians_and_its_interval_covers_the_truth():
    hits = 0
    for seed in range(40):
        session = Session(seed, {"a": samples(noisy(2.0, seed=seed)), "b": samples(noisy(1.0, seed=99 + seed))})
        ratio = session.ratio("a", "b")
        medians = [np.median(session.subjects[name].all) for name in "ab"]
        assert ratio.value == pytest.approx(medians[0] / medians[1])
        assert ratio.low <= ratio.value <= ratio.high
        assert ratio.high - ratio.low < 0.1
        hits += ratio.low <= 2.0 <= ratio.high
    # With 95% intervals, fewer than 34 of 40 cover the truth with a probability of 1 in 10,000.
    assert hits >= 34
    assert session.ratio("a", "b") == ratio


def test_interval_is_the_bootstrap_over_rounds():
    one, other = samples(noisy(2.0, count=37), rounds=5), samples(noisy(1.0, count=37, seed=1), rounds=5)
    ratio = Session(3, {"a": one, "b": other}).ratio("a", "b")
    drawn = np.random.default_rng(3).integers(0, 5, (module.RESAMPLES, 5))
    medians = [
        [np.median(np.concatenate([of.blocks[number] for number in rounds])) for rounds in drawn]
        for of in (one, other)
    ]
    low, high = np.quantile(np.divide(*medians), (0.025, 0.975))
    assert (ratio.low, ratio.high) == pytest.approx((low, high))


def test_a_slow_round_does_not_widen_the_interval():
    slowed = np.random.default_rng(5).uniform(1, 3, 20)
    calm = Session(0, {"a": samples(noisy(2.0)), "b": samples(noisy(1.0, seed=1))})
    rough = Session(0, {"a": samples(noisy(2.0, slowed=slowed)), "b": samples(noisy(1.0, seed=1, slowed=slowed))})
    widths = [one.ratio("a", "b").high - one.ratio("a", "b").low for one in (calm, rough)]
    assert rough.ratio("a", "b").value == pytest.approx(2.0, rel=0.1)
    alone = np.quantile(
        [np.median(np.random.default_rng(s).choice(slowed, 20)) for s in range(300)], [0.025, 0.975]
    )
    assert widths[1] < alone[1] - alone[0]


def test_ratio_of_equal_models_is_within_the_noise_floor():
    for seed in range(40):
        session = Session(seed, {"a": samples(noisy(1.0, seed=seed)), "b": samples(noisy(1.0, seed=500 + seed))})
        floor = session.noise_floor("a", "b")
        assert floor.low <= 1 <= floor.high
        assert floor.low <= session.ratio("a", "b").low and session.ratio("a", "b").high <= floor.high
        assert session.doubts(floor) == ()


def test_noise_floor_that_excludes_1_by_more_than_2_percent_is_a_doubt():
    session = Session(0, {"a": samples(noisy(1.2)), "b": samples(noisy(1.0, seed=1))})
    (doubt,) = session.doubts(session.noise_floor("a", "b"))
    assert "two models with the same graph differ in time: ratio 1.2" in doubt
    assert session.doubts() == ()
    near = Ratio(1.02, 1.015, 1.025)
    assert near.excludes_one() and not near.excludes_one(0.02)
    assert session.doubts(near) == ()


def test_drift_is_a_doubt():
    half = np.r_[np.full(200, 1.0), np.full(200, 1.3)]
    session = Session(0, {"a": samples(half), "b": samples(np.full(400, 1.0))})
    assert session.doubts() == ("timing of a drifted during the session (30% slower)",)
    faster = Session(0, {"a": samples(half[::-1])})
    assert faster.doubts() == ("timing of a drifted during the session (23% faster)",)


def test_unsteady_warm_up_and_a_busy_machine_are_doubts(monkeypatch):
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    calm = samples(np.ones(40))
    assert Session(0, {"a": calm}, load=(0.5, 4.0)).doubts() == ()
    assert Session(0, {"a": calm}, load=(0.5, 4.1)).doubts() == ("the machine was busy (load 4.1 on 2 cores)",)
    (doubt,) = Session(0, {"a": samples(np.ones(40), steady=False)}).doubts()
    assert doubt == "timing of a was not steady after warm-up"


def test_lasting_differences_of_compiled_functions_widen_the_interval():
    random = np.random.default_rng(0)
    rounds, functions = 48, 4

    def blocks(effects):
        each = [effects[number % functions] for number in range(rounds)]
        return tuple(1e6 * one * (1 + 0.005 * random.standard_normal(15)) for one in each)

    pair = {name: blocks(1 + 0.05 * random.standard_normal(functions)) for name in ("a", "b")}
    widths = []
    for instances in (1, functions):
        samples = {
            name: Samples("tensorflow", 2, batch=1, blocks=taken, instances=instances)
            for name, taken in pair.items()
        }
        ratio = Session(0, samples).ratio("a", "b")
        widths.append(ratio.high - ratio.low)
    assert widths[1] > 1.5 * widths[0]
