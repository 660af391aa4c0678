"""kd predict: write the predictions of a model to a file, which can also stand in for a teacher."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Unpack

from kdcli.artifacts.prediction_file import check_prediction_path, write_predictions
from kdcli.data.dataset import fill_outputs, fingerprint_dataset
from kdcli.errors import UsageError
from kdcli.models.files.format import resolve_model_file
from kdcli.runs.prediction_results import PredictionResult
from kdcli.screening.verdict import NO_TRUST
from kdcli.setup.evaluated_models import open_evaluated_file
from kdcli.setup.named_models import check_limits, open_split, request_for_models, require_data
from kdcli.setup.request import RecipeLike, RecipeOptions
from kdcli.setup.startup import start_tensorflow


def predict(
    model: str | Path,
    *,
    out: str | Path,
    recipe: RecipeLike | None = None,
    split: str = "auto",
    limit: float | None = None,
    **options: Unpack[RecipeOptions],
) -> PredictionResult:
    """Write the predictions of a model on a split; labels are optional.

    A `.npz` file holds `logits` (n, classes), `probabilities` (n, classes), `predicted` (n,), `index` (n,),
    `labels` if there are any, and `fingerprint`, the sha256 of the data. For regression `values` (n, outputs)
    replaces the first three, for segmentation `classes` (n, h, w). A `.csv` file has one line per example: index,
    label, predicted, and one probability per class (or the values). `index` counts the rows of the split in the
    source: `train` is the whole training part, before validation is split off and without `data.limit`, so that
    the file can stand in for a teacher.

    Args:
        model: a model file, or a run directory with its data and preprocessing.
        out: a new `.npz` or `.csv` file.
        recipe: for its `data` and `student.input`.
        split: `auto` (test if there is one, else all), `train`, `validation`, `test`, `all`.
        limit: number of examples of the split, or a fraction of them; stratified.
        options: options of `kdcli.RecipeOptions`. The data is by default that of the run, `batch_size` 256.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.predict("student.keras", data="digits", out="predictions.npz").examples   # doctest: +SKIP
    """
    path, batch_size = Path(out), options.pop("batch_size", None)
    check_prediction_path(path)
    check_limits(limit=limit, batch_size=batch_size, split=split)
    file = resolve_model_file(Path(model), trust=options.get("trust", NO_TRUST))
    request = request_for_models([model], recipe, **options)
    require_data(request)
    context = request.context
    start_tensorflow(threads=context.threads, seed=request.recipe.train.seed, code=request.code)
    whole, dataset, examples = open_split(request, split=split, limit=limit, on_event=context.on_event)
    if path.suffix == ".csv" and dataset.is_dense:
        raise UsageError(f"--out {path}: a .csv file cannot hold segmentation maps", hint="--out FILE.npz")
    with ExitStack() as resources:
        opened = open_evaluated_file(
            Path(model),
            "student",
            request=request,
            dataset=dataset,
            threads=context.threads,
            opened=resources,
            on_event=context.on_event,
        )
        size = batch_size or 256
        _, logits = opened.measure(examples, task=dataset.task, on_event=context.on_event, batch_size=size)
    dataset = fill_outputs(dataset, opened.network.outputs)
    write_predictions(path, opened.network, dataset, examples, logits, fingerprint=fingerprint_dataset(whole))
    return PredictionResult(path, examples.split, len(examples), dataset.task, file)
