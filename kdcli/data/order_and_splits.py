"""Order and selection of examples: shuffles, limits and splits as pure functions of a seed."""

from __future__ import annotations

import numpy as np

_SPLIT, _LIMIT, _SHUFFLE, _TEST = 1, 2, 3, 4


def draw_numbers(count: int, *key: int) -> np.ndarray:
    """Draw `count` random numbers from [0, 1), determined by the key."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).random(count)


def shuffle_positions(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Shuffle all positions for one epoch, (count,)."""
    return np.argsort(draw_numbers(count, seed, _SHUFFLE, epoch), kind="stable")


def limit_positions(labels: np.ndarray | None, count: int, *, limit: float, seed: int) -> np.ndarray:
    """Select the positions within a limit, stratified by label, in order.

    Args:
        labels: labels (count,), or None.
        count: number of examples.
        limit: an integer is a number of examples, a float a fraction of them.
        seed: RNG seed for the selection.
    """
    selected = limit if isinstance(limit, int) else max(1, round(limit * count))
    if selected >= count:
        return np.arange(count)
    return _stratify(labels, count, selected, key=(seed, _LIMIT))


def split_positions(
    labels: np.ndarray | None, count: int, *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into those to train on and those to validate on, stratified by label.

    Args:
        labels: labels (count,), or None.
        count: number of examples.
        fraction: fraction of the examples to validate on.
        seed: RNG seed for the selection.
    """
    held_out = _hold_out(labels, count, fraction, key=(seed, _SPLIT))
    return np.setdiff1d(np.arange(count), held_out, assume_unique=True), held_out


def select_test_positions(
    labels: np.ndarray | None, first_copies: np.ndarray, *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into those to train on and those to test on; equal examples stay together.

    Args:
        labels: labels (count,), or None.
        first_copies: (count,) position of the first example with the same inputs.
        fraction: fraction of the distinct examples to test on, stratified by label.
        seed: RNG seed for the selection.
    """
    distinct = np.unique(first_copies)
    labels = None if labels is None else labels[distinct]
    chosen = distinct[_hold_out(labels, len(distinct), fraction, key=(seed, _TEST))]
    in_test = np.isin(first_copies, chosen)
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def _hold_out(labels: np.ndarray | None, count: int, fraction: float, *, key: tuple[int, int]) -> np.ndarray:
    size = min(max(1, round(fraction * count)), count - 1) if fraction and count > 1 else 0
    return _stratify(labels, count, size, key=key)


def _stratify(labels: np.ndarray | None, count: int, size: int, *, key: tuple[int, int]) -> np.ndarray:
    """Select `size` positions with the classes in their original proportions.

    Each class gets its exact quota rounded down; the remaining positions go to the largest remainders, one each.
    Each class is thus within one example of its quota, for any size.
    """
    random = draw_numbers(count, *key)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return np.sort(np.argsort(random, kind="stable")[:size])
    by_class = np.lexsort((random, labels))
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    quotas, remainders = np.divmod(sizes * size, count)
    # Equal remainders are ordered at random, so that no rare class is always the last one.
    largest = np.lexsort((random[by_class[starts]], -remainders))
    quotas[largest[: size - quotas.sum()]] += 1
    position = np.arange(count) - np.repeat(starts, sizes)
    return np.sort(by_class[position < np.repeat(quotas, sizes)])
