"""The state of training, as checkpoints store it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdcli.errors import StorageError
from kdcli.models.variables import assign_values, copy_values
from kdcli.runs.packed_file import PackedData
from kdcli.tensors import Variables


@dataclass
class TrainingState:
    """The state of training without the variables.

    Checkpoints store the fields under these names, so they must not be renamed.
    """

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_figure: float | None = None
    best_loss: float | None = None
    stopped: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class TrainingResult:
    """The result of training; the best weights are in the model."""

    steps: int
    epochs: int
    best_epoch: int
    history: list[dict[str, Any]]
    seconds: float
    examples_per_second: float


def capture_state(
    state: TrainingState, groups: Mapping[str, Variables], best: Sequence[np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the document and the arrays of a checkpoint: the state, all variables by group, the best weights."""
    arrays = {
        f"{name}/{number}": array
        for name, variables in groups.items()
        for number, array in enumerate(copy_values(variables))
    }
    return dict(vars(state)), arrays | {f"best/{number}": array for number, array in enumerate(best)}


def restore_state(saved: PackedData, groups: Mapping[str, Variables]) -> tuple[TrainingState, list[np.ndarray]]:
    """Restore all variables; return the state and the best weights.

    Raises:
        StorageError: the checkpoint has other variables.
    """
    for name, variables in groups.items():
        arrays = _read_numbered(name, saved.arrays)
        if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
            raise StorageError(f"the {name} variables of the checkpoint differ from those of this run")
        assign_values(variables, arrays)
    return TrainingState(**saved.document), _read_numbered("best", saved.arrays)


def _read_numbered(name: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    count = sum(key.startswith(f"{name}/") for key in arrays)
    return [arrays[f"{name}/{number}"] for number in range(count)]
