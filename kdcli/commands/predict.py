"""kd predict: a model's answers to one split, in a file that others can read and that a student can learn from."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset, fill_outputs, fingerprint_dataset
from kdcli.data.examples import Examples
from kdcli.errors import UsageError
from kdcli.evaluation.quality import decide_classes, to_probabilities
from kdcli.events import OnEvent, ignore_event
from kdcli.models.files.format import resolve_model_file
from kdcli.models.network import Network
from kdcli.runs import writer
from kdcli.runs.prediction_results import PredictionResult
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.evaluated_models import open_evaluated_file
from kdcli.setup.named_models import (
    check_limits,
    open_named_data,
    request_for_models,
    require_data,
    select_examples,
)
from kdcli.setup.request import SPLIT_OPTIONS
from kdcli.setup.startup import start_tensorflow

SUFFIXES = (".npz", ".csv")


def predict(
    model: str | Path,
    *,
    data: Any = None,
    out: str | Path,
    recipe: Any = None,
    settings: Sequence[str] = (),
    split: str = "auto",
    limit: float | None = None,
    batch_size: int | None = None,
    signature: str | None = None,
    output: str | None = None,
    trust: Trust = NO_TRUST,
    code: Sequence[str | Path] = (),
    threads: int | None = None,
    on_event: OnEvent = ignore_event,
) -> PredictionResult:
    """Write a model's answers to a split; labels are not needed.

    A `.npz` holds `logits` (n, classes), `probabilities`, `predicted` (n,), `index` (n,), `labels` where there
    are any, and `fingerprint`, the sha256 of the data. For regression it holds `values` (n, outputs) instead of
    the first three, for segmentation `classes` (n, h, w). A `.csv` has one line an example: index, label,
    predicted, and a probability for each class (or the values). `index` counts the rows of the split as the
    source has it: `train` is all of the training part, before a share of it is taken for validation and
    whatever `data.limit` says, so that the file can stand for a teacher.

    Args:
        model: a `.keras`, `.h5` or `.tflite` file, or a run directory, which brings its data and preparation.
        data: a name, a path, or arrays as in `kdcli.distill`; of the run when left out.
        out: a new `.npz` or `.csv` file.
        recipe: for its `data` and `student.input`.
        settings: `path=value` texts, as for `--set`.
        split: `auto` (test where there is one, else everything), `train`, `validation`, `test`, `all`.
        limit: how many examples of the split: a count, or a share written with a point; stratified.
        batch_size: examples in a batch; 256 when left out. It changes the speed, not the answers.
        signature, output: which signature of a SavedModel, and which of several outputs, of the model.
        trust: what files may do: `kdcli.Trust(model=True)` is `--trust-model`.
        code: Python files that define own layers or kinds.
        threads: of TensorFlow, before it has started, and of the reader of a `.tflite` file.
        on_event: told of progress.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.predict("student.keras", data="digits", out="answers.npz").examples   # doctest: +SKIP
    """
    path, given = Path(out), Path(model)
    _check_out(path)
    if split not in SPLIT_OPTIONS:
        raise UsageError(f"--split must be one of {', '.join(SPLIT_OPTIONS)}, got {split!r}")
    check_limits(limit=limit, batch_size=batch_size)
    file = resolve_model_file(given, trust=trust)
    request = request_for_models(
        [given],
        recipe,
        settings=settings,
        data=data,
        signature=signature,
        output=output,
        trust=trust,
        code=code,
    )
    require_data(request)
    start_tensorflow(threads=threads, seed=request.recipe.train.seed, code=request.code)
    dataset = whole = open_named_data(request, carve=False, on_event=on_event)
    if split == "validation" and whole.validation is None:
        dataset = open_named_data(request, carve=True, on_event=ignore_event)
    examples = select_examples(dataset, request, split=split, limit=limit, on_event=on_event)
    if path.suffix == ".csv" and dataset.is_dense:
        raise UsageError(f"--out {path}: maps do not fit into a table", hint="--out FILE.npz")
    with ExitStack() as opened:
        candidate = open_evaluated_file(
            given,
            "student",
            request=request,
            dataset=dataset,
            threads=threads,
            opened=opened,
            on_event=on_event,
        )
        _, logits = candidate.measure(examples, task=dataset.task, on_event=on_event, batch_size=batch_size or 256)
    network = candidate.network
    dataset = fill_outputs(dataset, network.outputs)
    writer.make_folder(path.parent)
    if path.suffix == ".npz":
        writer.write_bytes(path, _npz(network, dataset, examples, logits, fingerprint_dataset(whole)))
    else:
        writer.write_text(path, _csv(network, dataset, examples, logits))
    return PredictionResult(path, examples.split, len(examples), dataset.task, file)


def _check_out(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--out must be a .npz or .csv file, got {path}", hint="--out answers.npz")
    if path.exists():
        raise UsageError(f"--out {path} exists already", hint="another --out; kd predict replaces no file")


def _npz(network: Network, dataset: Dataset, examples: Examples, logits: np.ndarray, fingerprint: str) -> bytes:
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


def _csv(network: Network, dataset: Dataset, examples: Examples, logits: np.ndarray) -> str:
    labels, names = examples.all_labels(), np.array(dataset.class_names, object)
    columns: dict[str, np.ndarray] = {"index": examples.rows}
    answers = decide_classes(logits, task=dataset.task)
    for column, values in (("label", labels), ("predicted", logits if answers is None else answers)):
        if values is not None and dataset.task == "classification":
            columns[column] = names[values]
        elif values is not None:
            columns |= _spread(column, values, dataset.class_names)
    shares = to_probabilities(logits, output_kind=network.output_kind)
    if shares is not None:
        columns |= {f"probability_{name}": shares[:, number] for number, name in enumerate(names)}
    # As text a float32 has the digits that tell it from its neighbours, and no more.
    cells = [column.astype(str) if column.dtype.kind == "f" else column for column in columns.values()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in cells), strict=True))
    return text.getvalue()


def _spread(column: str, values: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """One column for each output; a single value keeps the plain name."""
    if values.shape[1] == 1:
        return {column: values[:, 0]}
    return {f"{column}_{name}": values[:, number] for number, name in enumerate(names)}
