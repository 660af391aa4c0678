"""Examples that are in both splits."""

from __future__ import annotations

import time

import numpy as np
import pytest

from kdcli.data.duplicates import count_duplicates
from kdcli.data.named_arrays import splits_from_arrays

RANDOM = np.random.default_rng(0)
X = RANDOM.integers(0, 256, (3000, 6, 5), dtype=np.uint8)


def part(x, rows=None):
    split = splits_from_arrays({"x": x} if not isinstance(x, dict) else x, name="d").train
    return split if rows is None else split.subset(np.asarray(rows))


def test_duplicates_are_counted_per_test_example():
    assert count_duplicates(part(X[:2000]), part(X[2000:])) == 0
    assert count_duplicates(part(X[:2000]), part(X[1990:])) == 10
    assert count_duplicates(part(X), part(X[[7, 7, 9]])) == 3
    assert count_duplicates(part(X[[7, 7, 9]]), part(X)) == 2


def test_examples_that_differ_in_one_pixel_are_not_duplicates():
    changed = X.copy()
    changed[:, 0, 0] ^= 1
    assert count_duplicates(part(X), part(changed)) == 0


def test_only_rows_of_the_split_are_compared():
    assert count_duplicates(part(X, [1, 2]), part(X, [2, 3])) == 1


def test_duplicates_are_equal_in_all_inputs():
    left, right = np.arange(8.0), np.arange(8)
    both = part({"x.left": left, "x.right": right})
    assert count_duplicates(both, both) == 8
    assert count_duplicates(both, part({"x.left": left, "x.right": right + 1})) == 0


def test_different_types_or_shapes_have_no_duplicates():
    assert count_duplicates(part(X), part(X.astype(np.int16))) == 0
    assert count_duplicates(part(X), part(X[:, :5])) == 0


@pytest.mark.serial
def test_duplicates_of_mnist_are_counted_within_seconds(shared_data):
    from kdcli.data.named_arrays import read_npz

    splits = read_npz(shared_data / "mnist.npz", name="mnist")
    since = time.perf_counter()
    assert count_duplicates(splits.train, splits.test) == 0
    assert time.perf_counter() - since < 5
