"""Where training stands: what a checkpoint holds beside the file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdcli.errors import StorageError
from kdcli.models.variables import assign_values, copy_values
from kdcli.runs.packed_file import PackedData


@dataclass
class TrainingState:
    """Where training stands, next to the variables; all of it goes into a checkpoint."""

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
    """What training came to; the best weights are in the model."""

    steps: int
    epochs: int
    best_epoch: int
    history: list[dict[str, Any]]
    seconds: float
    examples_per_second: float


def capture_state(
    state: TrainingState, parts: Mapping[str, Sequence[Any]], best: Sequence[np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The document and the arrays of a checkpoint: the state, every variable by part, the best weights."""
    arrays = {
        f"{name}/{number}": array
        for name, variables in parts.items()
        for number, array in enumerate(copy_values(variables))
    }
    return dict(vars(state)), arrays | {f"best/{number}": array for number, array in enumerate(best)}


def restore_state(saved: PackedData, parts: Mapping[str, Sequence[Any]]) -> tuple[TrainingState, list[np.ndarray]]:
    """Give every variable its value back; the state and the best weights.

    Raises:
        StorageError: the checkpoint is of other variables.
    """
    for name, variables in parts.items():
        arrays = _numbered(name, saved.arrays)
        if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
            raise StorageError(f"the checkpoint's {name} has other variables than this run's")
        assign_values(variables, arrays)
    return TrainingState(**saved.document), _numbered("best", saved.arrays)


def _numbered(name: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    count = sum(key.startswith(f"{name}/") for key in arrays)
    return [arrays[f"{name}/{number}"] for number in range(count)]
