"""Files of predictions: `.npz` for programs and students, `.csv` for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.errors import UsageError
from kdcli.evaluation.quality import decide_classes, to_probabilities
from kdcli.models.network import Network
from kdcli.runs import writer

_SUFFIXES = (".npz", ".csv")


def check_prediction_path(path: Path) -> None:
    """Refuse a path that exists or has an unknown suffix.

    Raises:
        UsageError: the path exists or has an unknown suffix.
    """
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"--out must be a .npz or .csv file, got {path}", hint="--out predictions.npz")
    if path.exists():
        raise UsageError(
            f"--out {path} already exists", hint="choose another --out: kd predict does not overwrite files"
        )


def write_predictions(
    path: Path, network: Network, dataset: Dataset, examples: Examples, logits: np.ndarray, *, fingerprint: str
) -> None:
    """Write predictions in the format of the path's suffix.

    Args:
        path: file to write.
        network: the network that predicted.
        dataset: the data set of the examples, with its number of outputs.
        examples: the n examples.
        logits: outputs of the network, (n, ...), float32.
        fingerprint: sha256 of the data.
    """
    writer.make_folder(path.parent)
    if path.suffix == ".npz":
        writer.write_bytes(path, _make_npz(network, dataset, examples, logits, fingerprint))
    else:
        writer.write_text(path, _make_csv(network, dataset, examples, logits))


def _make_npz(
    network: Network, dataset: Dataset, examples: Examples, logits: np.ndarray, fingerprint: str
) -> bytes:
    arrays: dict[str, Any] = {}
    if dataset.task == "segmentation":
        arrays["classes"] = decide_classes(logits, task=dataset.task)
    elif dataset.task == "regression":
        arrays["values"] = logits
    else:
        arrays["logits"] = logits
        arrays["probabilities"] = to_probabilities(logits, output_kind=network.output_kind)
        arrays["predicted"] = decide_classes(logits, task=dataset.task)
    labels = examples.all_labels()
    if labels is not None:
        arrays["labels"] = labels
    file = io.BytesIO()
    np.savez(file, index=examples.rows, fingerprint=np.array(fingerprint), **arrays)
    return file.getvalue()


def _make_csv(network: Network, dataset: Dataset, examples: Examples, logits: np.ndarray) -> str:
    labels, names = examples.all_labels(), np.array(dataset.class_names, object)
    columns: dict[str, np.ndarray] = {"index": examples.rows}
    classes = decide_classes(logits, task=dataset.task)
    for column, values in (("label", labels), ("predicted", logits if classes is None else classes)):
        if values is not None and dataset.task == "classification":
            columns[column] = names[values]
        elif values is not None:
            columns |= _split_columns(column, values, dataset.class_names)
    probabilities = to_probabilities(logits, output_kind=network.output_kind)
    if probabilities is not None:
        columns |= {f"probability_{name}": probabilities[:, number] for number, name in enumerate(names)}
    # The shortest text that identifies a float32.
    cells = [column.astype(str) if column.dtype.kind == "f" else column for column in columns.values()]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*(column.tolist() for column in cells), strict=True))
    return text.getvalue()


def _split_columns(column: str, values: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """One column per output; a single output has the plain name."""
    if values.shape[1] == 1:
        return {column: values[:, 0]}
    return {f"{column}_{name}": values[:, number] for number, name in enumerate(names)}
