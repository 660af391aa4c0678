"""The values of variables: copied, restored, counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from kdcli.tensors import Variable, Variables


def copy_values(variables: Variables) -> list[np.ndarray]:
    """Copy the values of variables."""
    return [np.array(variable.numpy()) for variable in variables]


def assign_values(variables: Variables, arrays: Sequence[np.ndarray]) -> None:
    """Assign one array to each variable."""
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


@contextmanager
def preserve_values(variables: Variables) -> Iterator[None]:
    """Restore the variables at the end of the block to their values at its start."""
    values = copy_values(variables)
    try:
        yield
    finally:
        assign_values(variables, values)


def count_values(variables: Iterable[Variable]) -> int:
    """Total number of values in the variables."""
    return sum(math.prod(variable.shape) for variable in variables)


DIVERGED_HINT = "use an earlier checkpoint: training had diverged before this one was saved"
