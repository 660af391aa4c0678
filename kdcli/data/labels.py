"""Labels: infer their task, check them, and encode them for losses and metrics before training begins."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kdcli.data.classes import (
    FEW_CLASSES,
    MAX_LISTED_CLASSES,
    REGRESSION_HINT,
    Classes,
    count_classes,
    count_labels,
    format_classes_setting,
)
from kdcli.data.examples import Examples
from kdcli.data.label_maps import check_map_channels, fits_image, has_areas, needs_channel, remove_channel
from kdcli.data.named_arrays import format_array_name, list_first
from kdcli.data.soft_labels import are_probability_rows, check_row_sums, describe_soft_labels, normalize_rows
from kdcli.errors import DataError
from kdcli.runs.mapped_arrays import iterate_parts

# Label of void pixels, after encoding.
VOID_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """The meaning of the labels of a data set.

    Args:
        task: `classification`, `multilabel`, `regression` or `segmentation`.
        outputs: number of outputs that a network needs; 0 if neither labels nor names define it.
        values: label of each class, in output order; empty if they are 0, 1, 2, ...
        soft: whether labels are rows of probabilities.
        ignore: label of void pixels, or None.
        scale: scale of regression targets: `unit`, `signed` or `raw`.
        notes: sentences for the user about unusual labels.
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
    """Infer the task and the number of outputs from the training labels.

    Args:
        train: the training split.
        task: the task, or `auto`.
        classes: known classes, their number, or None.
        name: name of the data in messages.
        ignore: label of void pixels.
        scale: scale of regression targets; `auto` scales images in bytes to [0, 1].

    Raises:
        DataError: the labels fit no task, or not the given one.
    """
    known = classes if isinstance(classes, Classes) else Classes(count=classes)
    labels = train.all_labels()
    if labels is None:
        task = "classification" if task == "auto" else task
        return Labelling(task=task, outputs=known.count or 0, ignore=ignore)
    where = f"{name}: y_{train.split}"
    _check_finite(labels, where)
    found = _infer_task(labels, train, where) if task == "auto" else task
    maps = found == "segmentation"
    if ignore is not None and (not maps or are_probability_rows(labels)):
        raise DataError(f"data.ignore requires maps of classes; {where} has none", hint="remove data.ignore")
    if found == "regression":
        return _infer_regression(labels, train, where=where, scale=scale)
    if scale not in ("auto", "raw"):
        raise DataError(
            f"data.target_scale requires regression targets; the task is {found}", hint="remove data.target_scale"
        )
    if found == "multilabel":
        return Labelling(task=found, outputs=_count_columns(labels, known, where, axes=2))
    if are_probability_rows(labels):
        width = _count_columns(labels, known, where, axes=4 if maps else 2)
        soft = not _are_integers(labels)
        notes = (describe_soft_labels(labels, where),) if soft else ()
        return Labelling(task=found, outputs=width, soft=soft, notes=notes)
    _check_classes(labels, where, maps=maps)
    if known.count is not None:
        return Labelling(task=found, outputs=known.count, values=known.values, ignore=ignore)
    counted = count_classes(labels, where, declared=task != "auto", maps=maps, ignore=ignore)
    return Labelling(task=found, outputs=counted.count, values=counted.values, ignore=ignore, notes=counted.notes)


def encode_labels(examples: Examples, labelling: Labelling, *, name: str) -> Examples:
    """Encode the labels of a split as losses and metrics need them; check that its inputs are finite.

    Args:
        examples: the split.
        labelling: the meaning of its labels.
        name: name of the data in messages.

    Raises:
        DataError: labels out of range, not integers or not finite, or inputs that are NaN or infinite.
    """
    _check_inputs(examples, name)
    labels = examples.labels
    if labels is None:
        return examples
    where = f"{name}: y_{examples.split}"
    _check_finite(labels, where)
    if labelling.task == "regression":
        return replace(examples, labels=_encode_values(labels, examples, labelling, where))
    if labelling.task == "multilabel":
        labels = labels.reshape(len(labels), -1).astype(np.float32)
        if labels.shape[1] != labelling.outputs:
            raise DataError(f"{where} has {labels.shape[1]} values per example, expected {labelling.outputs}")
        if not np.isin(labels, (0, 1)).all():
            raise DataError(f"{where} must be 0 or 1 for a multilabel task")
        return replace(examples, labels=labels)
    if are_probability_rows(labels):
        if labels.shape[-1] != labelling.outputs:
            raise DataError(f"{where} has {labels.shape[-1]} columns, expected {labelling.outputs} classes")
        soft = normalize_rows(labels) if labelling.soft else None
        return replace(examples, labels=labels.argmax(-1), soft_labels=soft)
    maps = labelling.task == "segmentation"
    _check_classes(labels, where, maps=maps)
    labels = _encode_classes(labels.astype(np.int64), labelling, where)
    return replace(examples, labels=remove_channel(labels, where) if maps else labels.ravel())


def _infer_task(labels: np.ndarray, train: Examples, where: str) -> str:
    if labels.ndim == 1 or labels.shape[1:] == (1,):
        return "classification"
    fits, whole = fits_image(labels, train.inputs), _are_integers(labels)
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
        check_map_channels(labels, where, whole=whole)
        return "regression"
    if not whole:
        return "regression"
    if labels.ndim in (3, 4) and fits:
        many = len(count_labels(labels)[0]) > FEW_CLASSES
        return "regression" if many and not has_areas(labels) else "segmentation"
    return "regression" if labels.dtype.kind == "f" else "classification"


def _infer_regression(labels: np.ndarray, train: Examples, *, where: str, scale: str) -> Labelling:
    outputs = 1 if labels.ndim == 1 or needs_channel(labels, train.inputs) else labels.shape[-1]
    if scale != "auto":
        return Labelling(task="regression", outputs=outputs, scale=scale)
    if labels.dtype != np.uint8 or labels.ndim < 3:
        return Labelling(task="regression", outputs=outputs)
    note = (
        f"{where} contains images in bytes: targets are divided by 255, to [0, 1] (data.target_scale: unit; "
        "signed scales to [-1, 1], raw keeps 0 to 255)"
    )
    return Labelling(task="regression", outputs=outputs, scale="unit", notes=(note,))


def _encode_classes(labels: np.ndarray, labelling: Labelling, where: str) -> np.ndarray:
    """Encode labels as 0 .. outputs - 1, and as `VOID_LABEL` for void pixels."""
    void = labels == labelling.ignore if labelling.ignore is not None else np.zeros(labels.shape, bool)
    if void.all():
        raise DataError(f"{where} contains only the label {labelling.ignore}, which data.ignore excludes")
    if labelling.values:
        order = np.argsort(labelling.values)
        ordered = np.asarray(labelling.values)[order]
        found = np.minimum(np.searchsorted(ordered, labels), len(ordered) - 1)
        wrong, numbers = ordered[found] != labels, order[found]
    else:
        wrong, numbers = (labels < 0) | (labels >= labelling.outputs), labels
    wrong &= ~void
    if wrong.any():
        raise _wrong_labels(labels, wrong, labelling, where)
    return np.where(void, VOID_LABEL, numbers)


def _wrong_labels(labels: np.ndarray, wrong: np.ndarray, labelling: Labelling, where: str) -> DataError:
    rows = np.flatnonzero(wrong.reshape(len(labels), -1).any(axis=1))
    values = np.unique(labels[wrong])
    if labelling.values:
        allowed = "the classes " + ", ".join(str(value) for value in labelling.values[:MAX_LISTED_CLASSES])
    else:
        allowed = f"0..{labelling.outputs - 1}"
    extended = sorted({*(labelling.values or range(labelling.outputs)), *values.tolist()})
    hint = f"correct them, or {format_classes_setting(extended)} when they are classes too"
    return DataError(
        f"{where} has {len(rows)} labels outside {allowed} "
        f"(values {', '.join(str(value) for value in values[:5])}; at {list_first(rows)})",
        hint=hint if len(extended) <= MAX_LISTED_CLASSES else None,
    )


def _encode_values(labels: np.ndarray, examples: Examples, labelling: Labelling, where: str) -> np.ndarray:
    if labels.ndim == 1 or needs_channel(labels, examples.inputs):
        labels = labels[..., None]
    if labelling.outputs and labels.shape[-1] != labelling.outputs:
        raise DataError(f"{where} has {labels.shape[-1]} values per example, expected {labelling.outputs}")
    if labelling.scale != "raw" and labels.dtype.kind == "f" and labels.size and labels.max() <= 1:
        raise DataError(
            f"{where} contains floats up to {labels.max():g}, but data.target_scale {labelling.scale} expects "
            "values from 0 to 255",
            hint="--set data.target_scale=raw, with the same scale of targets in all splits",
        )
    values = labels.astype(np.float32)
    if labelling.scale == "unit":
        return values / np.float32(255)
    return values / np.float32(127.5) - 1 if labelling.scale == "signed" else values


def _count_columns(labels: np.ndarray, known: Classes, where: str, *, axes: int) -> int:
    width = 1 if labels.ndim == 1 else labels.shape[-1]
    if labels.ndim > axes:
        raise DataError(
            f"{where} has shape {labels.shape}; this task needs one row per example", hint="--set data.task=auto"
        )
    if known.count not in (None, width):
        raise DataError(f"{where} has {width} columns, expected {known.count} classes")
    return width


def _are_integers(labels: np.ndarray) -> bool:
    if labels.dtype.kind != "f":
        return True
    return all((part == np.floor(part)).all() for _, part in iterate_parts(labels))


def _check_classes(labels: np.ndarray, where: str, *, maps: bool) -> None:
    if labels.ndim == 2 and labels.dtype.kind == "f" and labels.shape[1] > 1:
        check_row_sums(labels, where)
    if (labels.ndim == 2 and labels.shape[1] != 1) or (labels.ndim > 2 and not maps):
        other = "multilabel or --set data.task=regression for several values"
        raise DataError(
            f"{where} has shape {labels.shape}; a class needs one number per example, or a row that sums to 1",
            hint=f"--set data.task={other if labels.ndim == 2 else 'segmentation or --set data.task=regression'}",
        )
    if maps:
        remove_channel(labels, where)
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
                hint="remove these examples, or give them labels",
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
            where = format_array_name(examples.split, key)
            raise DataError(
                f"{name}: {where} contains NaN or infinity in examples {list_first(wrong)}",
                hint="remove these examples, or fill the gaps, for example with np.nan_to_num",
            )
