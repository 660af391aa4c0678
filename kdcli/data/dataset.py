"""The data of a run: source, splits, labels, limit, all checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.data.arrays import splits_from_arrays
from kdcli.data.classes import encode_text_labels, resolve_classes
from kdcli.data.examples import Concatenation, Examples, Splits
from kdcli.data.labels import VOID_LABEL, encode_labels, infer_labelling
from kdcli.data.named_labels import choose_labels
from kdcli.data.order import limit_positions, split_positions
from kdcli.errors import DataError
from kdcli.runs.records import hash_arrays


@dataclass(frozen=True)
class Dataset:
    """Everything that is known of the data.

    Args:
        name: what messages call it.
        train, validation, test: the splits; validation is split off the training part when the source has
            none, and may be None when its share is 0.
        task: `classification`, `multilabel`, `regression` or `segmentation`.
        outputs: how many outputs a network needs: classes, or values; 0 where nothing says.
        class_names: in label order; numbers where nothing named them.
        labelled: whether labels are used.
        notes: sentences about how the source was read and what labels mean, for people.
        target_scale: of values: `unit`, `signed` or `raw`.
        label_name: NAME where the labels are `y_train.NAME`.
    """

    name: str
    train: Examples
    validation: Examples | None
    test: Examples | None
    task: str
    outputs: int
    class_names: tuple[str, ...]
    labelled: bool
    notes: tuple[str, ...] = ()
    target_scale: str = "raw"
    label_name: str | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example of the first input."""
        return next(iter(self.train.shapes.values()))

    @property
    def is_dense(self) -> bool:
        """Whether there is a label for each pixel: a class, or values."""
        return self.task == "segmentation" or bool(self.train.label_map_shape(self.task))

    @property
    def has_void(self) -> bool:
        """Whether some pixels count for nothing."""
        labels = self.train.labels
        return self.task == "segmentation" and labels is not None and bool((labels == VOID_LABEL).any())

    def split(self, name: str) -> Examples:
        """A split by name; `auto` is test where there is one, else everything; `all` is everything.

        Raises:
            DataError: the data has no such split.
        """
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        present = {key: part for key, part in parts.items() if part is not None}
        if name == "auto":
            name = "test" if self.test is not None else "all"
        if name == "all":
            return _joined(list(present.values()))
        if name not in present:
            raise DataError(f"{self.name}: has no {name} split; there is {', '.join(present)}")
        return present[name]


def open_dataset(
    section: Any, *, seed: int, arrays: Any = None, split_validation: bool = True, output_names: Sequence[str] = ()
) -> Dataset:
    """Open the data of a recipe's `data` section, or arrays given in Python.

    Args:
        section: `kdcli.recipe.sections.DataSection`.
        seed: of the split and the limit.
        arrays: (x, y), (x_train, y_train, x_test, y_test) or a mapping as in a `.npz`, instead of the source.
        split_validation: split validation off the training part and apply the limit.
        output_names: the outputs of models that were chosen, for labels that are stored by their names.

    Raises:
        DataError: anything that cannot be right.
    """
    splits = _from_python(arrays) if arrays is not None else section.source.load()
    splits, label_name = choose_labels(splits, section.labels, output_names=output_names)
    splits = encode_text_labels(splits, section.classes)
    classes = resolve_classes(section.classes, splits)
    # Labels that are not used still say what the data is for, and how wide models must be.
    labelling = infer_labelling(
        splits.train,
        task=section.task,
        classes=classes,
        name=splits.name,
        ignore=section.ignore,
        scale=section.target_scale,
    )
    if section.labels == "none":
        splits = _without_labels(splits)
    parts: dict[str, Examples | None] = {}
    for key in ("train", "validation", "test"):
        part = getattr(splits, key)
        if part is not None and part.shapes != splits.train.shapes:
            theirs, ours = ("; ".join(_shapes(one)) for one in (part, splits.train))
            raise DataError(f"{splits.name}: x_{key} has shape {theirs}, x_train {ours}")
        parts[key] = encode_labels(part, labelling, name=splits.name) if part is not None else None
    train, validation = parts["train"], parts["validation"]
    assert train is not None
    if split_validation:
        train, validation = _carved(train, validation, section, seed, splits.name)
    return Dataset(
        splits.name,
        train,
        validation,
        parts["test"],
        labelling.task,
        labelling.outputs,
        classes.names or tuple(str(value) for value in labelling.values or range(labelling.outputs)),
        train.labels is not None,
        (*splits.notes, *labelling.notes),
        labelling.scale,
        label_name,
    )


def fill_outputs(dataset: Dataset, outputs: int) -> Dataset:
    """The data with the number of outputs that a teacher knows where the data itself says nothing."""
    if dataset.outputs:
        return dataset
    return replace(dataset, outputs=outputs, class_names=tuple(str(number) for number in range(outputs)))


def fingerprint_dataset(dataset: Dataset) -> str:
    """A sha256 over the content of all splits: inputs, labels, weights, rows."""
    parts = [part for part in (dataset.train, dataset.validation, dataset.test) if part is not None]
    arrays = (a for part in parts for a in (*part.content, part.labels, part.soft_labels, part.weights, part.rows))
    return hash_arrays(array for array in arrays if array is not None)


def compute_class_weights(dataset: Dataset, setting: Any) -> np.ndarray | None:
    """The weight of each class in label losses, or None; `balanced` makes every class count the same.

    Raises:
        DataError: an unknown class name, or a task without classes.
    """
    if setting == "none":
        return None
    if dataset.task != "classification" or dataset.train.labels is None:
        raise DataError(
            "data.class_weight needs labels and data.task classification", hint="leave class_weight out"
        )
    if setting == "balanced":
        labels = dataset.train.labels[dataset.train.rows]
        counts = np.bincount(labels, minlength=dataset.outputs)
        return (counts.sum() / (np.maximum(counts, 1) * np.count_nonzero(counts))).astype(np.float32)
    unknown = [name for name in setting if name not in dataset.class_names]
    if unknown:
        raise DataError(f"data.class_weight: no class {unknown[0]!r}; classes: {', '.join(dataset.class_names)}")
    return np.asarray([setting.get(name, 1.0) for name in dataset.class_names], np.float32)


def _carved(
    train: Examples, validation: Examples | None, section: Any, seed: int, name: str
) -> tuple[Examples, Examples | None]:
    kept = limit_positions(train.all_labels(), len(train), limit=section.limit, seed=seed)
    train = train.subset(kept)
    if validation is None and section.validation:
        if len(train) < 2:
            raise DataError(f"{name}: {len(train)} training example leaves none for validation")
        rest, held = split_positions(train.all_labels(), len(train), fraction=section.validation, seed=seed)
        train, validation = train.subset(rest), train.subset(held, split="validation")
    return train, validation


def _from_python(arrays: Any) -> Splits:
    if isinstance(arrays, Mapping):
        named = {key: np.asarray(value) for key, value in arrays.items()}
    elif isinstance(arrays, Sequence) and len(arrays) in (2, 4):
        keys = ("x", "y") if len(arrays) == 2 else ("x_train", "y_train", "x_test", "y_test")
        pairs = zip(keys, arrays, strict=True)
        named = {key: np.asarray(value) for key, value in pairs if value is not None}
    else:
        raise DataError("data: expected (x, y), (x_train, y_train, x_test, y_test) or a mapping of arrays")
    return splits_from_arrays(named, name="data")


def _shapes(examples: Examples) -> list[str]:
    """The shape of each input, with its name where there are several."""
    shown = {name: "×".join(map(str, shape)) or "()" for name, shape in examples.shapes.items()}
    return list(shown.values()) if len(shown) == 1 else [f"{name} {shape}" for name, shape in shown.items()]


def _without_labels(splits: Splits) -> Splits:
    parts = {
        key: replace(part, labels=None, soft_labels=None)
        for key in ("train", "validation")
        if (part := getattr(splits, key)) is not None
    }
    return replace(splits, **parts)


def _joined(parts: list[Examples]) -> Examples:
    if len(parts) == 1:
        return replace(parts[0], split="all")
    rows = [part.rows for part in parts]
    inputs = {name: Concatenation([part.inputs[name] for part in parts], rows) for name in parts[0].inputs}
    labelled = all(part.labels is not None for part in parts)
    labels = np.concatenate([part.all_labels() for part in parts]) if labelled else None
    return Examples("all", inputs, labels, None, np.arange(sum(map(len, rows))))
