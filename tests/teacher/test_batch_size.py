"""The batch size of inference."""

from __future__ import annotations

import keras
import psutil
import pytest

from kdcli.models.keras.network import KerasNetwork
from kdcli.teacher.inference import (
    DEFAULT_BATCH_SIZE,
    MIN_OUTPUTS_TO_SEARCH,
    InferenceBatchSize,
    count_bytes_per_example,
)

MANY = 100_000


def search(batch, seconds_of, *, at_most=400):
    """Search with batches of n examples that take `seconds_of(n)`; return their sizes."""
    sizes = []
    while batch.searching and len(sizes) < at_most:
        sizes.append(batch.size)
        batch.record(batch.size, seconds_of(batch.size))
    return sizes


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes of memory are free."""

    def set_to(available):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Free", (), {"available": available}))

    set_to(10**12)
    return set_to


@pytest.mark.parametrize("best", [32, 64, 256, 1024])
def test_the_size_doubles_while_the_rate_grows_by_more_than_5_percent(free, best):
    batch = InferenceBatchSize(None, outputs=MANY, bytes_per_example=1)
    # Below `best`, half of the time does not depend on the number of examples.
    sizes = search(batch, lambda n: max(n, best) / 1000 + n / 1000)
    assert batch.size == best
    assert not batch.searching
    assert sorted(set(sizes)) == [32 * 2**k for k in range(len(set(sizes)))]
    assert max(sizes) == min(4 * best, 1024)


def test_the_search_returns_to_the_best_size(free):
    batch = InferenceBatchSize(None, outputs=MANY, bytes_per_example=1)
    search(batch, lambda n: n / (1000 if n <= 128 else 400) + 0.1)
    assert batch.size == 128


def test_the_first_batch_of_a_size_and_a_slow_one_do_not_count(free):
    batch, calls = InferenceBatchSize(None, outputs=MANY, bytes_per_example=1), []

    def seconds(n):
        calls.append(n)
        return {1: 50.0, 3: 9.0}.get(calls.count(n), max(n, 128) / 1000)

    search(batch, seconds)
    assert batch.size == 128


def test_the_search_takes_few_batches(free):
    batch = InferenceBatchSize(None, outputs=MANY, bytes_per_example=1)
    sizes = search(batch, lambda n: 0.1)
    assert len(sizes) == 4 * 6
    assert sum(sizes) < MANY / 10


def test_a_smaller_last_batch_does_not_count(free):
    batch = InferenceBatchSize(None, outputs=MANY, bytes_per_example=1)
    for _ in range(20):
        batch.record(7, 1.0)
    assert (batch.size, batch.searching) == (32, True)


def test_memory_bounds_the_size(free):
    free(2000 * 100)
    batch = InferenceBatchSize(None, outputs=MANY, bytes_per_example=1000)
    search(batch, lambda n: 1.0)
    assert batch.size == 64
    free(10_000)
    assert InferenceBatchSize(None, outputs=10, bytes_per_example=1000).size == 5
    assert InferenceBatchSize(None, outputs=10, bytes_per_example=10**9).size == 1


def test_there_is_no_search_for_few_outputs_or_with_a_fixed_size(free):
    few = InferenceBatchSize(None, outputs=MIN_OUTPUTS_TO_SEARCH - 1, bytes_per_example=1)
    assert few.size == DEFAULT_BATCH_SIZE
    assert InferenceBatchSize(48, outputs=MANY, bytes_per_example=10**12).size == 48
    assert not InferenceBatchSize(48, outputs=MANY, bytes_per_example=1).searching
    assert InferenceBatchSize(None, outputs=MIN_OUTPUTS_TO_SEARCH, bytes_per_example=1).searching


def test_running_out_of_memory_ends_the_search_with_half_the_size(free):
    batch = InferenceBatchSize(None, outputs=MANY, bytes_per_example=1)
    assert batch.halve(64)
    assert (batch.size, batch.searching) == (32, False)
    assert batch.halve(2)
    assert not batch.halve(1)


def test_the_bytes_of_an_example_include_all_activations():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    assert count_bytes_per_example(KerasNetwork(model, name="t")) == 4 * (4 + 6 + 2 + 2)


def test_one_slow_size_does_not_end_the_search(free):
    batch = InferenceBatchSize(None, outputs=MANY, bytes_per_example=1)
    search(batch, lambda n: 9.0 if n == 64 else max(n, 256) / 1000)
    assert batch.size == 256
