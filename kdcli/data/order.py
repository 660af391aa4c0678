"""Which example comes when: splits and shuffles as pure functions of a seed."""

from __future__ import annotations

import numpy as np

_SPLIT, _LIMIT, _SHUFFLE = 1, 2, 3


def draw_numbers(count: int, *key: int) -> np.ndarray:
    """`count` numbers from [0, 1) that follow from the key alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).random(count)


def shuffle_positions(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch: every position once."""
    return np.argsort(draw_numbers(count, seed, _SHUFFLE, epoch), kind="stable")


def limit_positions(labels: np.ndarray | None, count: int, *, limit: float, seed: int) -> np.ndarray:
    """The positions that a limit leaves, in order: a count, or a share when it is a float; stratified."""
    wanted = limit if isinstance(limit, int) else max(1, round(limit * count))
    if wanted >= count:
        return np.arange(count)
    return _stratified(labels, count, wanted, (seed, _LIMIT))


def split_positions(
    labels: np.ndarray | None, count: int, *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on and positions to select on, stratified by label."""
    wanted = min(max(1, round(fraction * count)), count - 1) if fraction and count > 1 else 0
    held = _stratified(labels, count, wanted, (seed, _SPLIT))
    return np.setdiff1d(np.arange(count), held, assume_unique=True), held


def _stratified(labels: np.ndarray | None, count: int, wanted: int, key: tuple[int, int]) -> np.ndarray:
    """`wanted` positions with the classes in their proportions.

    Every class gets its exact share rounded down; what is left over goes to the largest remainders, one each.
    So every class gets its share to within one example, whatever the total.
    """
    random = draw_numbers(count, *key)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return np.sort(np.argsort(random, kind="stable")[:wanted])
    by_class = np.lexsort((random, labels))
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    taken, remainders = np.divmod(sizes * wanted, count)
    # Classes of equal remainder in random order: rare classes must not always lose to each other.
    largest = np.lexsort((random[by_class[starts]], -remainders))
    taken[largest[: wanted - taken.sum()]] += 1
    position = np.arange(count) - np.repeat(starts, sizes)
    return np.sort(by_class[position < np.repeat(taken, sizes)])
