"""The values of variables: copied, given back, kept as they were."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np


def copy_values(variables: Sequence[Any]) -> list[np.ndarray]:
    """Copies of the values of variables."""
    return [np.array(variable.numpy()) for variable in variables]


def assign_values(variables: Sequence[Any], arrays: Sequence[np.ndarray]) -> None:
    """Give variables their values back."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


@contextmanager
def preserve_values(variables: Sequence[Any]) -> Iterator[None]:
    """Whatever the block does to the variables, they are afterwards what they were."""
    kept = copy_values(variables)
    try:
        yield
    finally:
        assign_values(variables, kept)


def count_values(variables: Iterable[Any]) -> int:
    """How many numbers variables hold together."""
    return sum(math.prod(variable.shape) for variable in variables)
