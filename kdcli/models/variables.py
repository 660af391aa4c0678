"""The values of variables: copied, given back, kept as they were."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np


def values_of(variables: Sequence[Any]) -> list[np.ndarray]:
    """Copies of the values of variables."""
    return [np.array(variable.numpy()) for variable in variables]


def assign_all(variables: Sequence[Any], arrays: Sequence[np.ndarray]) -> None:
    """Give variables their values back."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


@contextmanager
def unchanged(variables: Sequence[Any]) -> Iterator[None]:
    """Whatever the block does to the variables, they are afterwards what they were."""
    kept = values_of(variables)
    try:
        yield
    finally:
        assign_all(variables, kept)


def size_of(variables: Iterable[Any]) -> int:
    """How many numbers variables hold together."""
    return sum(math.prod(variable.shape) for variable in variables)
