"""What labels are, and whether they can be right: checked before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kdcli.data.arrays import array_name, first_five
from kdcli.data.examples import Examples
from kdcli.errors import DataError
from kdcli.runs.mapping import in_parts


@dataclass(frozen=True)
class Labelling:
    """What the labels of a data set mean.

    Args:
        task: `classification`, `multilabel`, `regression` or `segmentation`.
        outputs: how many outputs a network needs for them; 0 where neither labels nor names say.
    """

    task: str
    outputs: int


def find_labelling(train: Examples, *, task: str, classes: int | None, name: str) -> Labelling:
    """The task and the number of outputs that the training labels ask for.

    Raises:
        DataError: labels that fit no task, or not the one asked for.
    """
    labels = train.all_labels()
    if labels is None:
        return Labelling("classification" if task == "auto" else task, classes or 0)
    found = _task_of(labels, train) if task == "auto" else task
    if found in ("multilabel", "regression"):
        width = 1 if labels.ndim == 1 else int(np.prod(labels.shape[1:]))
        if found == "multilabel" and classes not in (None, width):
            raise DataError(f"{name}: y_{train.split} has {width} columns, expected {classes} classes")
        return Labelling(found, width)
    if found == "classification" and _is_one_hot(labels):
        if classes not in (None, labels.shape[1]):
            raise DataError(f"{name}: y_{train.split} has {labels.shape[1]} columns, expected {classes} classes")
        return Labelling(found, labels.shape[1])
    _check_whole(labels, f"{name}: y_{train.split}", maps=found == "segmentation")
    seen = int(labels.max()) + 1
    return Labelling(found, classes or seen)


def checked(examples: Examples, labelling: Labelling, *, name: str) -> Examples:
    """The split with labels in the form that losses and metrics take, and inputs known to be finite.

    Raises:
        DataError: labels out of range, not whole, not finite, or inputs that are NaN or infinite.
    """
    _check_inputs(examples, name)
    labels = examples.labels
    if labels is None:
        return examples
    where = f"{name}: y_{examples.split}"
    if labelling.task in ("regression", "multilabel"):
        _check_finite(labels, where)
        labels = labels.reshape(len(labels), -1).astype(np.float32)
        if labels.shape[1] != labelling.outputs:
            raise DataError(f"{where} has {labels.shape[1]} values an example, expected {labelling.outputs}")
        if labelling.task == "multilabel" and not np.isin(labels, (0, 1)).all():
            raise DataError(f"{where} must be 0 or 1 for a multilabel task")
        return replace(examples, labels=labels)
    if labelling.task == "classification" and _is_one_hot(labels):
        labels = labels.argmax(axis=1)
    _check_whole(labels, where, maps=labelling.task == "segmentation")
    labels = labels.astype(np.int64)
    if labelling.task == "segmentation":
        labels = _as_maps(labels, where)
    if labelling.task == "classification":
        labels = labels.reshape(len(labels))
    flat = labels.reshape(len(labels), -1)
    wrong = np.flatnonzero(((flat < 0) | (flat >= labelling.outputs)).any(axis=1))
    if len(wrong):
        values = sorted({int(v) for v in flat[wrong[:100]].ravel() if not 0 <= v < labelling.outputs})[:5]
        raise DataError(
            f"{where} has {len(wrong)} labels outside 0..{labelling.outputs - 1} "
            f"(values {', '.join(map(str, values))}; at {first_five(wrong)})"
        )
    return replace(examples, labels=labels)


def _task_of(labels: np.ndarray, train: Examples) -> str:
    if labels.ndim == 1 or labels.shape[1:] == (1,) or _is_one_hot(labels):
        return "classification"
    if labels.ndim == 2 and np.isin(labels, (0, 1)).all():
        return "multilabel"
    pictures = [shape for shape in train.shapes.values() if len(shape) >= 2]
    if labels.ndim >= 3 and any(labels.shape[1:3] == shape[:2] for shape in pictures):
        return "segmentation"
    return "regression" if labels.dtype.kind == "f" else "classification"


def _as_maps(labels: np.ndarray, where: str) -> np.ndarray:
    if labels.ndim == 4 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.ndim != 3:
        raise DataError(f"{where} has shape {labels.shape}; segmentation needs a class for each pixel (n, h, w)")
    return labels


def _is_one_hot(labels: np.ndarray) -> bool:
    if labels.ndim != 2 or labels.shape[1] < 2:
        return False
    return bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())


def _check_whole(labels: np.ndarray, where: str, *, maps: bool) -> None:
    _check_finite(labels, where)
    if (labels.ndim == 2 and labels.shape[1] != 1) or (labels.ndim > 2 and not maps):
        raise DataError(
            f"{where} has shape {labels.shape}; a class needs one number an example",
            hint="--set data.task=multilabel or --set data.task=regression for several values",
        )
    wrong = np.flatnonzero((labels != np.floor(labels)).reshape(len(labels), -1).any(axis=1))
    if len(wrong):
        raise DataError(
            f"{where} has {len(wrong)} labels that are not whole numbers (at {first_five(wrong)})",
            hint="--set data.task=regression when the labels are values, not classes",
        )
    if labels.min() < 0:
        negative = np.flatnonzero((labels < 0).reshape(len(labels), -1).any(axis=1))
        raise DataError(f"{where} has {len(negative)} labels below 0 (at {first_five(negative)})")


def _check_finite(labels: np.ndarray, where: str) -> None:
    if labels.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(labels).reshape(len(labels), -1).all(axis=1))
        if len(wrong):
            raise DataError(f"{where} has {len(wrong)} labels that are NaN or infinite (at {first_five(wrong)})")


def _check_inputs(examples: Examples, name: str) -> None:
    for key, array in examples.inputs.items():
        if array.dtype.kind != "f":
            continue
        wrong: list[int] = []
        for start, part in in_parts(array):
            finite = np.isfinite(part).reshape(len(part), -1)
            wrong.extend(np.flatnonzero(~finite.all(axis=1)) + start)
        if wrong:
            shown = first_five(np.asarray(wrong))
            where = array_name(examples.split, key)
            raise DataError(
                f"{name}: {where} holds NaN or infinity in examples {shown}",
                hint="leave these examples out, or fill them, for example by np.nan_to_num",
            )
