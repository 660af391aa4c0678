"""The data of a run: source, splits, labels and limit, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.data.classes import encode_text_labels, resolve_classes
from kdcli.data.duplicates import find_first_copies
from kdcli.data.examples import Concatenation, Examples, Splits
from kdcli.data.labels import VOID_LABEL, Labelling, encode_labels, infer_labelling
from kdcli.data.named_arrays import splits_from_arrays
from kdcli.data.named_labels import choose_labels
from kdcli.data.order_and_splits import limit_positions, select_test_positions, split_positions
from kdcli.data.split_names import SPLIT_NAMES
from kdcli.data.tf_dataset import is_tf_dataset, read_tf_dataset
from kdcli.errors import DataError
from kdcli.recipe.sections import DataSection
from kdcli.runs.run_environment import hash_arrays


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The opened data of a run.

    Args:
        name: name of the data in messages.
        train, validation, test: the splits; validation is split off the training split if the source has none,
            and is None if `data.validation` is 0.
        task: `classification`, `multilabel`, `regression` or `segmentation`.
        outputs: number of outputs that a network needs (classes or values); 0 if unknown.
        class_names: names in label order; numbers if the classes have no names.
        labelled: whether labels are used.
        notes: sentences for the user about how the source was read and what its labels mean.
        target_scale: scale of regression targets: `unit`, `signed` or `raw`.
        label_name: NAME if the labels are `y_train.NAME`.
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
        """Shape of one example of the first input."""
        return next(iter(self.train.shapes.values()))

    @property
    def is_dense(self) -> bool:
        """Whether each pixel has a label: a class, or values."""
        return self.task == "segmentation" or bool(self.train.label_map_shape(self.task))

    @property
    def has_void(self) -> bool:
        """Whether some pixels are void: left out of losses and metrics."""
        labels = self.train.labels
        return self.task == "segmentation" and labels is not None and bool((labels == VOID_LABEL).any())

    def split(self, name: str) -> Examples:
        """Select a split by name; `auto` is the test split or else all examples; `all` is all examples.

        Raises:
            DataError: the data has no split of that name.
        """
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        present = {key: part for key, part in parts.items() if part is not None}
        if name == "auto":
            name = "test" if self.test is not None else "all"
        if name == "all":
            return _concatenate(list(present.values()))
        if name not in present:
            raise DataError(f"{self.name}: no {name} split; available: {', '.join(present)}")
        return present[name]


def open_dataset(
    section: DataSection,
    *,
    seed: int,
    arrays: Any = None,
    split_validation: bool = True,
    output_names: Sequence[str] = (),
    splits: Splits | None = None,
) -> Dataset:
    """Open the data of a recipe's `data` section, or arrays passed in Python.

    Args:
        section: the `data` section.
        seed: RNG seed for the validation split and the limit.
        arrays: (x, y), (x_train, y_train, x_test, y_test), a mapping as in a `.npz` file or a `tf.data.Dataset`;
            replaces the source.
        split_validation: split validation off the training split and apply the limit.
        output_names: selected outputs of the models, to find labels stored by output name.
        splits: the content of the source, if it was read before.

    Raises:
        DataError: the data is missing, inconsistent or unusable.
    """
    splits = splits or load_splits(section, arrays)
    splits, label_name = choose_labels(splits, section.labels, output_names=output_names)
    splits = encode_text_labels(splits, section.classes)
    classes = resolve_classes(section.classes, splits)
    # Labels that are ignored still define the task and the number of outputs.
    labelling = infer_labelling(
        splits.train,
        task=section.task,
        classes=classes,
        name=splits.name,
        ignore=section.ignore,
        scale=section.target_scale,
    )
    fraction = 0.0 if section.test == "auto" or splits.test is not None else section.test
    if section.labels == "none":
        splits = _set_aside_test(splits, fraction, seed=seed)
        splits = _remove_labels(splits)
    splits = _encode_splits(splits, labelling)
    if section.labels != "none":
        # Encoded labels are classes, by which the split is stratified.
        splits = _set_aside_test(splits, fraction, seed=seed)
    train, validation = splits.train, splits.validation
    if split_validation:
        train, validation = _split_validation(train, validation, section, seed=seed, name=splits.name)
    return Dataset(
        name=splits.name,
        train=train,
        validation=validation,
        test=splits.test,
        task=labelling.task,
        outputs=labelling.outputs,
        class_names=classes.names or tuple(str(v) for v in labelling.values or range(labelling.outputs)),
        labelled=train.labels is not None,
        notes=(*splits.notes, *labelling.notes),
        target_scale=labelling.scale,
        label_name=label_name,
    )


def load_splits(section: DataSection, arrays: Any = None) -> Splits:
    """Read the source of a `data` section, or arrays passed in Python.

    Raises:
        DataError: the data is missing or cannot be read.
    """
    if arrays is not None:
        return _read_python_arrays(arrays)
    assert section.source is not None
    return section.source.load()


def fill_outputs(dataset: Dataset, outputs: int) -> Dataset:
    """Set the number of outputs, known from a teacher, if the data itself does not define it."""
    if dataset.outputs:
        return dataset
    return replace(dataset, outputs=outputs, class_names=tuple(str(number) for number in range(outputs)))


def fingerprint_dataset(dataset: Dataset) -> str:
    """Hash the content of all splits (inputs, labels, weights, rows) with SHA-256."""
    parts = [part for part in (dataset.train, dataset.validation, dataset.test) if part is not None]
    arrays = (a for part in parts for a in (*part.content, part.labels, part.soft_labels, part.weights, part.rows))
    return hash_arrays(array for array in arrays if array is not None)


def compute_class_weights(dataset: Dataset, setting: str | Mapping[str, float]) -> np.ndarray | None:
    """Compute the weight of each class in label losses, (classes,) float32; None for `none`.

    Args:
        dataset: data with labels.
        setting: `data.class_weight`: `none`, `balanced` (equal total weight for all classes), or weights by class
            name.

    Raises:
        DataError: an unknown class name, or a task without classes.
    """
    if setting == "none":
        return None
    if dataset.task != "classification" or dataset.train.labels is None:
        raise DataError(
            "data.class_weight requires labels and a classification task", hint="remove data.class_weight"
        )
    if isinstance(setting, str):
        labels = dataset.train.labels[dataset.train.rows]
        counts = np.bincount(labels, minlength=dataset.outputs)
        return (counts.sum() / (np.maximum(counts, 1) * np.count_nonzero(counts))).astype(np.float32)
    unknown = [name for name in setting if name not in dataset.class_names]
    if unknown:
        classes = ", ".join(dataset.class_names)
        raise DataError(f"data.class_weight: unknown class {unknown[0]!r}; classes: {classes}")
    return np.asarray([setting.get(name, 1.0) for name in dataset.class_names], np.float32)


def _encode_splits(splits: Splits, labelling: Labelling) -> Splits:
    parts: dict[str, Any] = {}
    for key in SPLIT_NAMES:
        part: Examples | None = getattr(splits, key)
        if part is None:
            continue
        if part.shapes != splits.train.shapes:
            found, expected = ("; ".join(_format_shapes(one)) for one in (part, splits.train))
            raise DataError(f"{splits.name}: x_{key} has shape {found}; expected {expected} as in x_train")
        parts[key] = encode_labels(part, labelling, name=splits.name)
    return replace(splits, **parts)


def _split_validation(
    train: Examples, validation: Examples | None, section: DataSection, *, seed: int, name: str
) -> tuple[Examples, Examples | None]:
    train = train.subset(limit_positions(train.all_labels(), len(train), limit=section.limit, seed=seed))
    if validation is None and section.validation:
        if len(train) < 2:
            raise DataError(f"{name}: cannot split validation examples off {len(train)} training example")
        rest, held_out = split_positions(train.all_labels(), len(train), fraction=section.validation, seed=seed)
        train, validation = train.subset(rest), train.subset(held_out, split="validation")
    return train, validation


def _set_aside_test(splits: Splits, fraction: float, *, seed: int) -> Splits:
    """Split a test split off the training split, before anything else uses it; none for a fraction of 0."""
    train = splits.train
    if not fraction:
        return splits
    if len(train) < 2:
        raise DataError(f"{splits.name}: cannot set test examples aside from {len(train)} training example")
    labels, first_copies = train.all_labels(), find_first_copies(train)
    rest, tested = select_test_positions(labels, first_copies, fraction=fraction, seed=seed)
    return replace(splits, train=train.subset(rest), test=train.subset(tested, split="test"))


def _read_python_arrays(arrays: Any) -> Splits:
    if is_tf_dataset(arrays):
        named = read_tf_dataset(arrays)
    elif isinstance(arrays, Mapping):
        named = {key: np.asarray(value) for key, value in arrays.items()}
    elif isinstance(arrays, Sequence) and len(arrays) in (2, 4):
        keys = ("x", "y") if len(arrays) == 2 else ("x_train", "y_train", "x_test", "y_test")
        pairs = zip(keys, arrays, strict=True)
        named = {key: np.asarray(value) for key, value in pairs if value is not None}
    else:
        raise DataError(
            "data: expected (x, y), (x_train, y_train, x_test, y_test), a mapping of arrays or a tf.data.Dataset"
        )
    return splits_from_arrays(named, name="data")


def _format_shapes(examples: Examples) -> list[str]:
    """Format the shape of each input, with its name if there are several."""
    texts = {name: "×".join(map(str, shape)) or "()" for name, shape in examples.shapes.items()}
    return list(texts.values()) if len(texts) == 1 else [f"{name} {shape}" for name, shape in texts.items()]


def _remove_labels(splits: Splits) -> Splits:
    parts = {
        key: replace(part, labels=None, soft_labels=None)
        for key in ("train", "validation")
        if (part := getattr(splits, key)) is not None
    }
    return replace(splits, **parts)


def _concatenate(parts: list[Examples]) -> Examples:
    if len(parts) == 1:
        return replace(parts[0], split="all")
    rows = [part.rows for part in parts]
    inputs = {name: Concatenation([part.inputs[name] for part in parts], rows) for name in parts[0].inputs}
    labelled = all(part.labels is not None for part in parts)
    labels = np.concatenate([part.all_labels() for part in parts]) if labelled else None
    return Examples("all", inputs, labels, None, np.arange(sum(map(len, rows))))
