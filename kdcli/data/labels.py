"""What labels mean, and whether they can be right: decided before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kdcli.data.arrays import format_array_name, list_first
from kdcli.data.classes import (
    FEW_CLASSES,
    MAX_LISTED_CLASSES,
    REGRESSION_HINT,
    Classes,
    count_classes,
    count_values,
    format_classes_setting,
)
from kdcli.data.examples import Examples
from kdcli.data.label_maps import fits_image, has_areas, needs_channel
from kdcli.data.soft_labels import are_probability_rows, check_row_sums, describe_soft_labels, normalize_rows
from kdcli.errors import DataError
from kdcli.runs.mapped_arrays import iterate_parts

# What a pixel is called whose class counts for nothing.
VOID_LABEL = -1


@dataclass(frozen=True)
class Labelling:
    """What the labels of a data set mean.

    Args:
        task: `classification`, `multilabel`, `regression` or `segmentation`.
        outputs: how many outputs a network needs for them; 0 where neither labels nor names say.
        values: the label of each class, in the order of the outputs; empty where they are 0, 1, 2, ...
        soft: whether a label is a row of probabilities.
        ignore: the label of pixels that count for nothing, or None.
        scale: of the targets: `unit`, `signed` or `raw`.
        notes: sentences about what is not plain to see.
    """

    task: str
    outputs: int
    values: tuple[int, ...] = ()
    soft: bool = False
    ignore: int | None = None
    scale: str = "raw"
    notes: tuple[str, ...] = ()


def infer_labelling(
    train: Examples,
    *,
    task: str,
    classes: int | Classes | None,
    name: str,
    ignore: int | None = None,
    scale: str = "auto",
) -> Labelling:
    """The task and the number of outputs that the training labels ask for.

    Args:
        task: what was asked for, or `auto`.
        classes: what is known of them.
        name: of the data, for messages.
        ignore: the label of pixels that count for nothing.
        scale: of the targets, or `auto`: images in bytes become [0, 1].

    Raises:
        DataError: labels that fit no task, or not the one asked for.
    """
    known = classes if isinstance(classes, Classes) else Classes(count=classes)
    labels = train.all_labels()
    if labels is None:
        return Labelling("classification" if task == "auto" else task, known.count or 0, ignore=ignore)
    where = f"{name}: y_{train.split}"
    _check_finite(labels, where)
    found = _task_of(labels, train, where) if task == "auto" else task
    if ignore is not None and (found != "segmentation" or are_probability_rows(labels)):
        raise DataError(
            f"data.ignore is for maps with a class for each pixel; {where} has none", hint="leave it out"
        )
    if found == "regression":
        return _of_values(labels, train, where, scale)
    if scale not in ("auto", "raw"):
        raise DataError(f"data.target_scale is for values; the task is {found}", hint="leave it out")
    if found == "multilabel":
        return Labelling(found, _width(labels, known, where, axes=2))
    if are_probability_rows(labels):
        width = _width(labels, known, where, axes=4 if found == "segmentation" else 2)
        soft = not _are_whole(labels)
        return Labelling(found, width, soft=soft, notes=(describe_soft_labels(labels, where),) if soft else ())
    _check_classes(labels, where, maps=found == "segmentation")
    if known.count is not None:
        return Labelling(found, known.count, known.values, ignore=ignore)
    counted = count_classes(labels, where, declared=task != "auto", maps=found == "segmentation", ignore=ignore)
    return Labelling(found, counted.count, counted.values, ignore=ignore, notes=counted.notes)


def encode_labels(examples: Examples, labelling: Labelling, *, name: str) -> Examples:
    """The split with labels in the form that losses and metrics take, and inputs known to be finite.

    Raises:
        DataError: labels out of range, not whole, not finite, or inputs that are NaN or infinite.
    """
    _check_inputs(examples, name)
    labels = examples.labels
    if labels is None:
        return examples
    where = f"{name}: y_{examples.split}"
    _check_finite(labels, where)
    if labelling.task == "regression":
        return replace(examples, labels=_as_values(labels, examples, labelling, where))
    if labelling.task == "multilabel":
        labels = labels.reshape(len(labels), -1).astype(np.float32)
        if labels.shape[1] != labelling.outputs:
            raise DataError(f"{where} has {labels.shape[1]} values an example, expected {labelling.outputs}")
        if not np.isin(labels, (0, 1)).all():
            raise DataError(f"{where} must be 0 or 1 for a multilabel task")
        return replace(examples, labels=labels)
    if are_probability_rows(labels):
        if labels.shape[-1] != labelling.outputs:
            raise DataError(f"{where} has {labels.shape[-1]} columns, expected {labelling.outputs} classes")
        soft = normalize_rows(labels) if labelling.soft else None
        return replace(examples, labels=labels.argmax(-1), soft_labels=soft)
    _check_classes(labels, where, maps=labelling.task == "segmentation")
    labels = _numbered(labels.astype(np.int64), labelling, where)
    return replace(
        examples, labels=_as_maps(labels, where) if labelling.task == "segmentation" else labels.ravel()
    )


def _task_of(labels: np.ndarray, train: Examples, where: str) -> str:
    if labels.ndim == 1 or labels.shape[1:] == (1,):
        return "classification"
    fits, whole = fits_image(labels, train.inputs), _are_whole(labels)
    if labels.ndim == 2:
        if are_probability_rows(labels):
            return "classification"
        if whole:
            return "multilabel" if np.isin(labels, (0, 1)).all() else "classification"
        check_row_sums(labels, where)
        return "regression"
    if labels.ndim == 4 and labels.shape[-1] > 1:
        if fits and are_probability_rows(labels):
            return "segmentation"
        _refuse_channels(labels, where, whole=whole)
        return "regression"
    if not whole:
        return "regression"
    if labels.ndim in (3, 4) and fits:
        many = len(count_values(labels)[0]) > FEW_CLASSES
        return "regression" if many and not has_areas(labels) else "segmentation"
    return "regression" if labels.dtype.kind == "f" else "classification"


def _refuse_channels(labels: np.ndarray, where: str, *, whole: bool) -> None:
    """Refuse maps of several channels that are no values: several classes a pixel, or colours of classes."""
    if np.isin(labels[:256], (0, 1)).all() and np.isin(labels, (0, 1)).all():
        raise DataError(
            f"{where} has {labels.shape[-1]} channels of 0 and 1, not one of them 1: a pixel has one class",
            hint="a map for each channel, or --set data.task=regression learns them as values",
        )
    if whole and has_areas(labels):
        raise DataError(
            f"{where} has shape {labels.shape} with areas of equal colour: masks have a number for each class",
            hint="store the number of the class instead of its colour, or --set data.task=regression for images",
        )


def _of_values(labels: np.ndarray, train: Examples, where: str, scale: str) -> Labelling:
    outputs = 1 if labels.ndim == 1 or needs_channel(labels, train.inputs) else labels.shape[-1]
    if scale == "auto" and not (labels.dtype == np.uint8 and labels.ndim >= 3):
        return Labelling("regression", outputs, scale="raw")
    if scale != "auto":
        return Labelling("regression", outputs, scale=scale)
    text = (
        f"{where} holds images in bytes: the targets are divided by 255, in [0, 1] (data.target_scale is unit; "
        "signed is [-1, 1], raw leaves 0 to 255)"
    )
    return Labelling("regression", outputs, scale="unit", notes=(text,))


def _numbered(labels: np.ndarray, labelling: Labelling, where: str) -> np.ndarray:
    """Labels as 0 .. outputs - 1, `VOID` where they count for nothing."""
    void = labels == labelling.ignore if labelling.ignore is not None else np.zeros(labels.shape, bool)
    if labelling.values:
        order = np.argsort(labelling.values)
        ordered = np.asarray(labelling.values)[order]
        found = np.minimum(np.searchsorted(ordered, labels), len(ordered) - 1)
        wrong, numbers = ordered[found] != labels, order[found]
    else:
        wrong, numbers = (labels < 0) | (labels >= labelling.outputs), labels
    wrong &= ~void
    if void.all():
        raise DataError(f"{where} holds nothing but {labelling.ignore}, the label that data.ignore leaves out")
    if wrong.any():
        rows = np.flatnonzero(wrong.reshape(len(labels), -1).any(axis=1))
        values = np.unique(labels[wrong])
        shown = ", ".join(str(value) for value in values[:5])
        wanted = labelling.values or range(labelling.outputs)
        allowed = (
            f"0..{labelling.outputs - 1}"
            if not labelling.values
            else "the classes " + ", ".join(str(value) for value in labelling.values[:MAX_LISTED_CLASSES])
        )
        more = sorted({*wanted, *values.tolist()})
        raise DataError(
            f"{where} has {len(rows)} labels outside {allowed} (values {shown}; at {list_first(rows)})",
            hint=f"correct them, or {format_classes_setting(more)} when they are classes too"
            if len(more) <= MAX_LISTED_CLASSES
            else None,
        )
    return np.where(void, VOID_LABEL, numbers)


def _as_values(labels: np.ndarray, examples: Examples, labelling: Labelling, where: str) -> np.ndarray:
    if labels.ndim == 1 or needs_channel(labels, examples.inputs):
        labels = labels[..., None]
    if labelling.outputs and labels.shape[-1] != labelling.outputs:
        raise DataError(f"{where} has {labels.shape[-1]} values an example, expected {labelling.outputs}")
    if labelling.scale != "raw" and labels.dtype.kind == "f" and labels.size and labels.max() <= 1:
        raise DataError(
            f"{where} holds floats up to {labels.max():g}, and data.target_scale {labelling.scale} is for values "
            "from 0 to 255",
            hint="--set data.target_scale=raw, with the targets of all splits alike",
        )
    values = labels.astype(np.float32)
    if labelling.scale == "unit":
        return values / np.float32(255)
    return values / np.float32(127.5) - 1 if labelling.scale == "signed" else values


def _as_maps(labels: np.ndarray, where: str) -> np.ndarray:
    if labels.ndim == 4 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.ndim != 3:
        raise DataError(f"{where} has shape {labels.shape}; segmentation needs a class for each pixel (n, h, w)")
    return labels


def _width(labels: np.ndarray, known: Classes, where: str, *, axes: int) -> int:
    width = 1 if labels.ndim == 1 else labels.shape[-1]
    if labels.ndim > axes:
        raise DataError(
            f"{where} has shape {labels.shape}; an example has one row for this task", hint="--set data.task=auto"
        )
    if known.count not in (None, width):
        raise DataError(f"{where} has {width} columns, expected {known.count} classes")
    return width


def _are_whole(labels: np.ndarray) -> bool:
    if labels.dtype.kind != "f":
        return True
    return all((part == np.floor(part)).all() for _, part in iterate_parts(labels))


def _check_classes(labels: np.ndarray, where: str, *, maps: bool) -> None:
    if labels.ndim == 2 and labels.dtype.kind == "f" and labels.shape[1] > 1:
        check_row_sums(labels, where)
    if (labels.ndim == 2 and labels.shape[1] != 1) or (labels.ndim > 2 and not maps):
        several = "--set data.task=multilabel or --set data.task=regression for several values"
        raise DataError(
            f"{where} has shape {labels.shape}; a class needs one number an example, or a row that sums to 1",
            hint=several if labels.ndim == 2 else "--set data.task=segmentation or --set data.task=regression",
        )
    if maps:
        _as_maps(labels, where)
    if labels.dtype.kind == "f":
        wrong = np.flatnonzero((labels != np.floor(labels)).reshape(len(labels), -1).any(axis=1))
        if len(wrong):
            raise DataError(
                f"{where} has {len(wrong)} labels that are not whole numbers (at {list_first(wrong)})",
                hint=REGRESSION_HINT,
            )


def _check_finite(labels: np.ndarray, where: str) -> None:
    if labels.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(labels).reshape(len(labels), -1).all(axis=1))
        if len(wrong):
            raise DataError(
                f"{where} has {len(wrong)} labels that are NaN or infinite (at {list_first(wrong)})",
                hint="leave these examples out, or give them labels",
            )


def _check_inputs(examples: Examples, name: str) -> None:
    for key, array in examples.inputs.items():
        if array.dtype.kind != "f":
            continue
        wrong: list[int] = []
        for start, part in iterate_parts(array):
            finite = np.isfinite(part).reshape(len(part), -1)
            wrong.extend(np.flatnonzero(~finite.all(axis=1)) + start)
        if wrong:
            shown = list_first(np.asarray(wrong))
            where = format_array_name(examples.split, key)
            raise DataError(
                f"{name}: {where} holds NaN or infinity in examples {shown}",
                hint="leave these examples out, or fill them, for example by np.nan_to_num",
            )
