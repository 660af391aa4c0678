"""What a network's answers are: said by its last layer, confirmed on data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdcli.errors import ModelError, UsageError, did_you_mean
from kdcli.models.network import Network
from kdcli.runs.class_names import read_class_names

# How far a row of probabilities may be from 1, in half precision.
_TOLERANCE = 5e-3
# Between two probabilities of an 8-bit softmax.
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
    """The network with its output understood, and checked against the task.

    Args:
        setting: `auto`, `logits`, `probabilities`, `sigmoid` or `values`.
        task: `classification`, `segmentation`, `multilabel` or `regression`.
        output_count: how many the data asks for.
        values: (n, ..., outputs), what the saved model itself returned for some examples.
        rescaled: what it returned for the same examples under another input scale, where the scale is open: a
            sigmoid or a softmax keeps its range under every one.
        map_shape: of a map of labels, () where an example has one row; None where no labels tell.

    Raises:
        ModelError: the number of outputs does not fit, or the answers contradict what was said.
    """
    if not np.isfinite(values).all():
        raise ModelError(
            f"{network.name}: answers NaN or infinity",
            hint="check input.scale, or the weights with kd evaluate",
        )
    _check_shape(network, task, values, map_shape)
    if setting == "values" and task != "regression":
        raise ModelError(f"{network.name}: output_kind is values, but the data is for {task}")
    bounded = _is_bounded(network, values, rescaled)
    if output_count and network.outputs != output_count:
        network = _with_other_count(network, wanted=setting, task=task, outputs=output_count, bounded=bounded)
    kind = setting
    if setting == "auto":
        kind = _kind_of(network, task, values, bounded=bounded)
    elif setting == "probabilities" and not _sums_to_one(values):
        raise ModelError(f"{network.name}: output_kind is probabilities, but the answers do not sum to 1")
    elif setting == "logits" and network.saved_kind in ("probabilities", "sigmoid") and task != "regression":
        raise ModelError(f"{network.name}: output_kind is logits, but the last layer gives {network.saved_kind}")
    elif setting == "sigmoid" and (values.min() < 0 or values.max() > 1):
        raise ModelError(f"{network.name}: output_kind is sigmoid, but the answers leave [0, 1]")
    if network.outputs != values.shape[-1]:
        return network
    return network.with_output_kinds(kind, output_kind=_head_of(kind, task))


def _check_shape(network: Network, task: str, answers: np.ndarray, sides: tuple[int, ...] | None) -> None:
    """Refuse answers that have another shape than the labels.

    Raises:
        ModelError: with both shapes.
    """
    shape = "×".join(str(side) for side in answers.shape[1:])
    axes = {"segmentation": 2, "regression": answers.ndim - 2}.get(task, 0)
    if answers.ndim - 2 != axes:
        raise ModelError(f"{network.name}: an answer has the shape {shape}; {task} needs {axes + 1} axes")
    if sides is not None and answers.shape[1:-1] != sides:
        wanted = "×".join(str(side) for side in (*sides, network.outputs))
        raise ModelError(
            f"{network.name}: an answer has the shape {shape}, the labels need {wanted}",
            hint="labels of the size of the output; (n, h, w) as y[..., None] where the output has a channel",
        )


def _head_of(kind: str, task: str) -> str:
    if task == "regression" or kind == "values":
        return "values"
    return "sigmoid" if task == "multilabel" or kind == "sigmoid" else "logits"


def _is_bounded(network: Network, answers: np.ndarray, otherwise: np.ndarray | None) -> bool:
    """Whether the answers stay in [0, 1] for a reason: a last layer that is linear has none."""
    if network.activation == "linear":
        return False
    return _within_one(answers) and (otherwise is None or _within_one(otherwise))


def _with_other_count(network: Network, *, wanted: str, task: str, outputs: int, bounded: bool) -> Network:
    hidden = wanted == "auto" and network.outputs == 1 and bounded
    if (wanted == "sigmoid" or hidden) and network.saved_kind != "sigmoid":
        network = network.with_output_kinds("sigmoid", output_kind="sigmoid")
    if task in ("classification", "segmentation") and network.outputs == 1 and outputs == 2:
        # One output for two classes is z of a sigmoid, whether the sigmoid is in the model or not.
        return network.as_two_classes()
    noun = "values" if task == "regression" else "classes"
    raise ModelError(
        f"{network.name} has {network.outputs} outputs, the data has {outputs} {noun}",
        hint="--set 'teacher.classes=[...]' maps a teacher's outputs; data.classes names the data's",
    )


def _kind_of(network: Network, task: str, answers: np.ndarray, *, bounded: bool) -> str:
    if task == "regression":
        return "values"
    if network.saved_kind in ("probabilities", "sigmoid"):
        return network.saved_kind
    if task == "multilabel":
        return "sigmoid" if bounded else "logits"
    return "probabilities" if bounded and _sums_to_one(answers) and answers.shape[-1] > 1 else "logits"


def _within_one(answers: np.ndarray) -> bool:
    return bool(answers.min() >= 0 and answers.max() <= 1)


def _sums_to_one(answers: np.ndarray) -> bool:
    """Whether rows are probabilities; those of 8-bit files come in steps, each half a step off at most."""
    if not _within_one(answers):
        return False
    tolerance = _TOLERANCE
    if np.abs(answers / _STEP - np.rint(answers / _STEP)).max() < 1e-3:
        tolerance += answers.shape[-1] * _STEP / 2
    return bool(np.abs(answers.sum(-1) - 1).max() < tolerance)


_SETTING = "teacher.classes"


def choose_columns(
    classes: str | Sequence[str] | Sequence[int], *, output_count: int, class_names: Sequence[str]
) -> tuple[int, ...]:
    """The teacher's column for each class of the data, in the data's order.

    Args:
        classes: column numbers, one for each class of the data; or the names of all the teacher's outputs: a
            list, or a text file with one a line.
        output_count: how many the teacher has.
        class_names: of the data.

    Raises:
        UsageError: numbers that the teacher has not, names for another number of outputs, or a class without one.
    """
    if isinstance(classes, str):
        classes = read_class_names(Path(classes), UsageError, setting=_SETTING)
    if not all(isinstance(one, str) for one in classes):
        return _checked_numbers([int(one) for one in classes], output_count, len(class_names))
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
    twice = [name for name in class_names if names.count(name) > 1]
    if twice:
        raise UsageError(f"{_SETTING} has {twice[0]!r} more than once", hint="give column numbers instead")
    return tuple(names.index(name) for name in class_names)


def _checked_numbers(numbers: list[int], outputs: int, wanted: int) -> tuple[int, ...]:
    if len(numbers) != wanted:
        raise UsageError(f"{_SETTING} has {len(numbers)} column numbers, the data has {wanted} classes")
    outside = [number for number in numbers if not 0 <= number < outputs]
    if outside:
        raise UsageError(f"{_SETTING}: column {outside[0]} does not exist, the teacher has {outputs} outputs")
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{_SETTING}: two classes of the data have the same column")
    return tuple(numbers)
