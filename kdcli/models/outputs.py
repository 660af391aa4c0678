"""The outputs of a network: their kind, and the columns of the data's classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdcli.errors import ModelError, UsageError, did_you_mean
from kdcli.models.network import Network
from kdcli.runs.class_names import read_class_names

# Largest difference between the sum of a row of probabilities and 1, in half precision.
_TOLERANCE = 5e-3
# Difference between adjacent probabilities of an 8-bit softmax.
_STEP = 1 / 256


def resolve_output(
    network: Network,
    *,
    setting: str,
    task: str,
    output_count: int,
    values: np.ndarray,
    map_shape: tuple[int, ...] | None = None,
    rescaled: np.ndarray | None = None,
) -> Network:
    """Determine the output kind of a network and check it against the task.

    Args:
        network: a network with preprocessing.
        setting: `auto`, `logits`, `probabilities`, `sigmoid` or `values`.
        task: `classification`, `segmentation`, `multilabel` or `regression`.
        output_count: number of classes or values in the data; 0 where it is unknown.
        values: (n, ..., outputs), what the saved model returns for some examples.
        map_shape: shape of a label map, () where labels are not maps; None where there are no labels.
        rescaled: what the saved model returns for the same examples under another input scale, where the scale
            is not settled; a sigmoid or softmax stays within its range under every scale.

    Raises:
        ModelError: another number of outputs than the data needs, or outputs that contradict the setting.
    """
    if not np.isfinite(values).all():
        raise ModelError(
            f"{network.name}: the outputs contain NaN or infinity",
            hint="check input.scale, or check the weights with kd evaluate",
        )
    _check_shape(network, task, values, map_shape)
    if setting == "values" and task != "regression":
        raise ModelError(f"{network.name}: output_kind is values, but the task of the data is {task}")
    bounded = _is_bounded(network, values, rescaled)
    if output_count and network.outputs != output_count:
        network = _reconcile_count(network, setting=setting, task=task, output_count=output_count, bounded=bounded)
    kind = setting
    if setting == "auto":
        kind = _detect_kind(network, task, values, bounded=bounded)
    elif setting == "probabilities" and not _sum_to_one(values):
        raise ModelError(f"{network.name}: output_kind is probabilities, but the outputs do not sum to 1")
    elif setting == "logits" and network.saved_kind in ("probabilities", "sigmoid") and task != "regression":
        raise ModelError(f"{network.name}: output_kind is logits, but the last layer returns {network.saved_kind}")
    elif setting == "sigmoid" and not _are_within_one(values):
        raise ModelError(f"{network.name}: output_kind is sigmoid, but some outputs are outside [0, 1]")
    if network.outputs != values.shape[-1]:
        return network
    return network.with_output_kinds(kind, output_kind=_output_kind_of(kind, task))


def _check_shape(network: Network, task: str, values: np.ndarray, map_shape: tuple[int, ...] | None) -> None:
    """Refuse outputs whose shape differs from that of the labels.

    Raises:
        ModelError: with both shapes.
    """
    shape = "×".join(str(side) for side in values.shape[1:])
    axes = {"segmentation": 2, "regression": values.ndim - 2}.get(task, 0)
    if values.ndim - 2 != axes:
        raise ModelError(f"{network.name}: the output has shape {shape}, but {task} needs {axes + 1} axes")
    if map_shape is not None and values.shape[1:-1] != map_shape:
        expected = "×".join(str(side) for side in (*map_shape, network.outputs))
        raise ModelError(
            f"{network.name}: the output has shape {shape}, but the labels need {expected}",
            hint="labels must have the size of the output; for an output with one channel, pass y[..., None]",
        )


def _output_kind_of(saved_kind: str, task: str) -> str:
    if task == "regression" or saved_kind == "values":
        return "values"
    return "sigmoid" if task == "multilabel" or saved_kind == "sigmoid" else "logits"


def _is_bounded(network: Network, values: np.ndarray, rescaled: np.ndarray | None) -> bool:
    """Whether the outputs stay in [0, 1] by construction; with a linear last layer it would be chance."""
    if network.activation == "linear":
        return False
    return _are_within_one(values) and (rescaled is None or _are_within_one(rescaled))


def _reconcile_count(network: Network, *, setting: str, task: str, output_count: int, bounded: bool) -> Network:
    """Read one output as two classes, where the data has two.

    Raises:
        ModelError: any other difference between the outputs of the network and the data.
    """
    hidden = setting == "auto" and network.outputs == 1 and bounded
    if (setting == "sigmoid" or hidden) and network.saved_kind != "sigmoid":
        network = network.with_output_kinds("sigmoid", output_kind="sigmoid")
    if task in ("classification", "segmentation") and network.outputs == 1 and output_count == 2:
        # The one output is the logit of a sigmoid, or the sigmoid itself where the model includes it.
        return network.as_two_classes()
    noun = "values" if task == "regression" else "classes"
    raise ModelError(
        f"{network.name} has {network.outputs} outputs, the data has {output_count} {noun}",
        hint="--set 'teacher.classes=[...]' maps a teacher's outputs to classes; data.classes names the classes",
    )


def _detect_kind(network: Network, task: str, values: np.ndarray, *, bounded: bool) -> str:
    if task == "regression":
        return "values"
    if network.saved_kind in ("probabilities", "sigmoid"):
        return network.saved_kind
    if task == "multilabel":
        return "sigmoid" if bounded else "logits"
    return "probabilities" if bounded and _sum_to_one(values) and values.shape[-1] > 1 else "logits"


def _are_within_one(values: np.ndarray) -> bool:
    return bool(values.min() >= 0 and values.max() <= 1)


def _sum_to_one(values: np.ndarray) -> bool:
    """Whether rows are probabilities; those of 8-bit files are multiples of a step, each off by half at most."""
    if not _are_within_one(values):
        return False
    tolerance = _TOLERANCE
    if np.abs(values / _STEP - np.rint(values / _STEP)).max() < 1e-3:
        tolerance += values.shape[-1] * _STEP / 2
    return bool(np.abs(values.sum(-1) - 1).max() < tolerance)


_SETTING = "teacher.classes"


def choose_columns(
    classes: str | Sequence[str] | Sequence[int], *, output_count: int, class_names: Sequence[str]
) -> tuple[int, ...]:
    """Choose the teacher's output for each class of the data, in the order of the classes.

    Args:
        classes: a column number for each class of the data; or the names of all the teacher's outputs, as a list
            or as a text file with one name per line.
        output_count: number of the teacher's outputs.
        class_names: class names of the data.

    Raises:
        UsageError: columns that do not exist, another number of names than outputs, or a class without a column.
    """
    if isinstance(classes, str):
        classes = read_class_names(Path(classes), UsageError, setting=_SETTING)
    if not all(isinstance(one, str) for one in classes):
        return _check_columns([int(one) for one in classes], output_count, len(class_names))
    names = [str(one) for one in classes]
    if len(names) != output_count:
        raise UsageError(
            f"{_SETTING} names {len(names)} classes, the teacher has {output_count} outputs",
            hint=f"--set '{_SETTING}=[3, 5]' gives a column number for each class of the data instead",
        )
    missing = [name for name in class_names if name not in names]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UsageError(
            f"{_SETTING} has no class {missing[0]!r}{more}; {did_you_mean(missing[0], names)}".rstrip("; "),
            hint=f"--set '{_SETTING}=[3, 5]' gives a column number for each class of the data instead",
        )
    repeated = [name for name in class_names if names.count(name) > 1]
    if repeated:
        raise UsageError(f"{_SETTING} has {repeated[0]!r} more than once", hint="give column numbers instead")
    return tuple(names.index(name) for name in class_names)


def _check_columns(numbers: list[int], outputs: int, class_count: int) -> tuple[int, ...]:
    if len(numbers) != class_count:
        raise UsageError(f"{_SETTING} has {len(numbers)} column numbers, the data has {class_count} classes")
    outside = [number for number in numbers if not 0 <= number < outputs]
    if outside:
        raise UsageError(f"{_SETTING}: column {outside[0]} does not exist, the teacher has {outputs} outputs")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{_SETTING}: two classes of the data have the same column")
    return tuple(numbers)
