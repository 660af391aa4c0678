"""Orders, limits and splits are functions of a seed."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.order_and_splits import limit_positions, shuffle_positions, split_positions

SIZES = {
    "balanced": [30, 30, 30],
    "uneven": [100, 37, 11, 3],
    "rare": [60, *[1] * 25],
    "pairs": [41, *[2] * 12],
}


def labels_of(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(0).permutation(labels)


def farthest(labels, taken, total):
    """The largest difference between the number of examples of a class and its exact quota."""
    sizes = np.bincount(labels)
    counts = np.bincount(labels[taken], minlength=len(sizes))
    return np.abs(counts - sizes * total / len(labels)).max()


def test_epoch_contains_every_position_once():
    assert np.sort(shuffle_positions(50, seed=3, epoch=2)).tolist() == list(range(50))


def test_order_depends_only_on_seed_and_epoch():
    first = shuffle_positions(50, seed=3, epoch=2)
    np.random.seed(1)
    shuffle_positions(50, seed=3, epoch=1)
    assert first.tolist() == shuffle_positions(50, seed=3, epoch=2).tolist()


@pytest.mark.parametrize("other", [{"seed": 4, "epoch": 2}, {"seed": 3, "epoch": 3}, {"seed": 2, "epoch": 3}])
def test_order_changes_with_seed_and_epoch(other):
    assert shuffle_positions(50, seed=3, epoch=2).tolist() != shuffle_positions(50, **other).tolist()


@pytest.mark.parametrize("sizes", SIZES.values(), ids=list(SIZES))
def test_limit_keeps_class_proportions_within_one_example(sizes):
    labels = labels_of(sizes)
    off = {
        total: farthest(labels, limit_positions(labels, len(labels), limit=total, seed=0), total)
        for total in range(1, len(labels))
    }
    assert {total: far for total, far in off.items() if far > 1} == {}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=list(SIZES))
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.5, 0.9])
def test_validation_keeps_class_proportions_within_one_example(sizes, fraction):
    labels = labels_of(sizes)
    rest, held = split_positions(labels, len(labels), fraction=fraction, seed=0)
    assert len(held) == round(fraction * len(labels))
    assert farthest(labels, held, len(held)) <= 1
    assert np.sort(np.concatenate([rest, held])).tolist() == list(range(len(labels)))


def test_split_depends_on_the_seed():
    labels = labels_of([20, 20])
    first = split_positions(labels, 40, fraction=0.2, seed=0)[1].tolist()
    assert first == split_positions(labels, 40, fraction=0.2, seed=0)[1].tolist()
    assert first != split_positions(labels, 40, fraction=0.2, seed=1)[1].tolist()


def test_integer_limit_is_a_count_and_float_limit_a_fraction():
    labels = labels_of([20, 20])
    assert len(limit_positions(labels, 40, limit=10, seed=0)) == 10
    assert len(limit_positions(labels, 40, limit=0.25, seed=0)) == 10
    assert len(limit_positions(labels, 40, limit=1, seed=0)) == 1
    assert limit_positions(labels, 40, limit=1.0, seed=0).tolist() == list(range(40))


def test_limit_above_the_number_of_examples_keeps_all():
    assert limit_positions(None, 7, limit=100, seed=0).tolist() == list(range(7))


def test_tiny_limit_keeps_one_example():
    assert len(limit_positions(None, 7, limit=0.001, seed=0)) == 1


def test_limit_keeps_the_order_without_repeats():
    selected = limit_positions(labels_of([20, 20]), 40, limit=15, seed=0)
    assert (np.diff(selected) > 0).all()


@pytest.mark.parametrize("labels", [None, np.random.default_rng(0).random((40, 2))])
def test_examples_without_classes_are_split_at_random(labels):
    rest, held = split_positions(labels, 40, fraction=0.25, seed=0)
    assert len(held) == 10
    assert held.tolist() != list(range(10))
    assert not set(rest) & set(held)


def test_fraction_zero_holds_nothing_out():
    rest, held = split_positions(None, 5, fraction=0.0, seed=0)
    assert (rest.tolist(), held.tolist()) == ([0, 1, 2, 3, 4], [])


def test_training_keeps_at_least_one_example():
    rest, held = split_positions(None, 2, fraction=0.99, seed=0)
    assert (len(rest), len(held)) == (1, 1)
