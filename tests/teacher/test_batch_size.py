"""How many examples a teacher answers at once."""

from __future__ import annotations

import keras
import psutil
import pytest

from kdcli.models.keras.network import KerasNetwork
from kdcli.teacher.inference import FEW, SETTLED, InferenceBatchSize, bytes_of_an_example

MANY = 100_000


def answered(batch, seconds_of, *, at_most=400):
    """The sizes of the batches of a pass in which a batch of n examples takes `seconds_of(n)`."""
    sizes = []
    while batch.searching and len(sizes) < at_most:
        sizes.append(batch.size)
        batch.took(batch.size, seconds_of(batch.size))
    return sizes


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes of memory are free."""

    def set_to(available):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Free", (), {"available": available}))

    set_to(10**12)
    return set_to


@pytest.mark.parametrize("best", [32, 64, 256, 1024])
def test_the_size_doubles_while_the_rate_grows_by_more_than_a_twentieth(free, best):
    batch = InferenceBatchSize(None, answers=MANY, bytes_each=1)
    # From `best` on the time grows with the examples; below, half of it does not.
    sizes = answered(batch, lambda n: max(n, best) / 1000 + n / 1000)
    assert batch.size == best
    assert not batch.searching
    assert sorted(set(sizes)) == [32 * 2**k for k in range(len(set(sizes)))]
    assert max(sizes) == min(4 * best, 1024)


def test_a_growing_rate_that_falls_again_goes_back_to_the_best(free):
    batch = InferenceBatchSize(None, answers=MANY, bytes_each=1)
    answered(batch, lambda n: n / (1000 if n <= 128 else 400) + 0.1)
    assert batch.size == 128


def test_the_first_batch_of_a_size_and_one_that_was_disturbed_do_not_count(free):
    batch, calls = InferenceBatchSize(None, answers=MANY, bytes_each=1), []

    def seconds(n):
        calls.append(n)
        return {1: 50.0, 3: 9.0}.get(calls.count(n), max(n, 128) / 1000)

    answered(batch, seconds)
    assert batch.size == 128


def test_the_search_takes_few_batches(free):
    batch = InferenceBatchSize(None, answers=MANY, bytes_each=1)
    sizes = answered(batch, lambda n: 0.1)
    assert len(sizes) == 4 * 6
    assert sum(sizes) < MANY / 10


def test_a_last_batch_that_is_smaller_says_nothing(free):
    batch = InferenceBatchSize(None, answers=MANY, bytes_each=1)
    for _ in range(20):
        batch.took(7, 1.0)
    assert (batch.size, batch.searching) == (32, True)


def test_memory_bounds_the_size(free):
    free(2000 * 100)
    batch = InferenceBatchSize(None, answers=MANY, bytes_each=1000)
    answered(batch, lambda n: 1.0)
    assert batch.size == 64
    free(10_000)
    assert InferenceBatchSize(None, answers=10, bytes_each=1000).size == 5
    assert InferenceBatchSize(None, answers=10, bytes_each=10**9).size == 1


def test_few_answers_and_a_size_that_is_given_are_not_searched(free):
    assert InferenceBatchSize(None, answers=FEW - 1, bytes_each=1).size == SETTLED
    assert InferenceBatchSize(48, answers=MANY, bytes_each=10**12).size == 48
    assert not InferenceBatchSize(48, answers=MANY, bytes_each=1).searching
    assert InferenceBatchSize(None, answers=FEW, bytes_each=1).searching


def test_running_out_of_memory_ends_the_search_with_half_the_size(free):
    batch = InferenceBatchSize(None, answers=MANY, bytes_each=1)
    assert batch.ran_out_of_memory(64)
    assert (batch.size, batch.searching) == (32, False)
    assert batch.ran_out_of_memory(2)
    assert not batch.ran_out_of_memory(1)


def test_the_bytes_of_an_example_are_those_of_everything_between():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    assert bytes_of_an_example(KerasNetwork(model, name="t")) == 4 * (4 + 6 + 2 + 2)


def test_one_size_that_is_disturbed_throughout_does_not_end_the_search(free):
    batch = InferenceBatchSize(None, answers=MANY, bytes_each=1)
    answered(batch, lambda n: 9.0 if n == 64 else max(n, 256) / 1000)
    assert batch.size == 256
