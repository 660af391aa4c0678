"""Labels and outputs that do not fit each other: which labels are to blame, and the way on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdcli.data.arrays import list_first
from kdcli.data.classes import REGRESSION_HINT, format_classes_setting
from kdcli.data.examples import Examples
from kdcli.errors import DataError, ModelError
from kdcli.models.network import Network

# Up to this fraction of the labels beyond a model's outputs they are slips; above it the model is another one.
SLIPS = 0.05


def check_class_count(
    network: Network, examples: Examples, *, task: str, outputs: int, class_names: Sequence[str]
) -> None:
    """Refuse labels that a model has no output for, or does not reach, where only the labels count the classes.

    Args:
        examples: the training part.
        outputs: as many as the labels ask for.
        class_names: of the data; numbers where nobody named them.

    Raises:
        DataError: a few labels are out of range.
        ModelError: the model has another number of outputs.
    """
    counted = task in ("classification", "segmentation") and list(class_names) == [str(n) for n in range(outputs)]
    labels = examples.all_labels()
    both = (network.outputs, outputs)
    if not counted or labels is None or examples.soft_labels is not None or both[0] == both[1] or both == (1, 2):
        return
    message = f"{network.name} has {network.outputs} outputs, the data has {outputs} classes"
    if network.outputs == 1:
        raise ModelError(message, hint=REGRESSION_HINT)
    seen = labels[labels >= 0]
    if seen.min() == 1 and seen.max() == network.outputs:
        raise ModelError(
            f"{message}: the labels are 1 to {network.outputs}, and 0 never occurs",
            hint=f"{format_classes_setting(range(1, network.outputs + 1))} when label 1 is the first output",
        )
    beyond = labels >= network.outputs
    if beyond.any():
        rows = examples.rows[np.flatnonzero(beyond.reshape(len(labels), -1).any(axis=1))]
        values = ", ".join(str(value) for value in np.unique(labels[beyond])[:5])
        if len(rows) > SLIPS * len(labels):
            raise ModelError(message, hint="--set 'teacher.classes=[...]' maps a teacher's outputs")
        raise DataError(
            f"y_{examples.split} has {len(rows)} labels outside 0..{network.outputs - 1}, the outputs of "
            f"{network.name} (values {values}; at {list_first(rows)})",
            hint="correct these labels, or give a model that knows them",
        )
    raise ModelError(
        f"{message}: its labels reach from {seen.min()} to {seen.max()}",
        hint=f"{format_classes_setting(range(network.outputs))} when the data lacks the model's other classes; "
        "--set 'teacher.classes=[...]' maps a teacher's outputs",
    )
