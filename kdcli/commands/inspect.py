"""kd inspect: describe a model file, and check it on data."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from kdcli.errors import UsageError
from kdcli.inspection.data_check import check_on_data
from kdcli.inspection.file import inspect_file
from kdcli.inspection.zoo_model import ZOO_PREFIX, inspect_zoo
from kdcli.models.files.format import detect_format, resolve_model_file
from kdcli.runs.inspection_results import Inspection
from kdcli.screening.verdict import NO_TRUST
from kdcli.setup.named_models import check_limits, request_for_models, require_data
from kdcli.setup.request import RecipeLike, RecipeOptions
from kdcli.setup.startup import start_tensorflow

# Settings that have an effect without data, since they select a part of a file.
_FILE_SETTINGS = ("student.signature=", "student.output=", "student.input.tensor=", "student.input.values")
# Formats that are inspected without TensorFlow.
_NO_TENSORFLOW = ("tflite", "onnx", "npz")


def inspect(
    model: str | Path,
    *,
    recipe: RecipeLike | None = None,
    limit: float | None = None,
    **options: Unpack[RecipeOptions],
) -> Inspection:
    """Describe a model: inputs, outputs, parameters, FLOPs, bytes, layers and taps.

    The file is screened and opened, and its weights are checked. Without data the output kind is that of the last
    layer, or the one that a run recorded. With data, output kind and image scale are found on examples, and
    `checked` holds the metrics. A file that is rejected or does not open raises no error here: `safe` is False,
    `findings` gives the reasons, and `refused` is the error that other commands raise.

    Args:
        model: a file, the folder of a SavedModel, a run directory, or `zoo:NAME` (an untrained zoo model,
            built for the data in a few sizes).
        recipe: for its `data` and `student.input`.
        limit: number of examples of the test split (of all data if there is none), or a fraction; 512 by default.
        options: options of `kdcli.RecipeOptions`. `batch_size` is 256 by default.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> [tap.name for tap in kdcli.inspect("teacher.keras").taps]   # doctest: +SKIP
    """
    if str(model).startswith(ZOO_PREFIX):
        return inspect_zoo(str(model), recipe=recipe, limit=limit, **options)
    batch_size = options.pop("batch_size", None)
    check_limits(limit=limit, batch_size=batch_size)
    path, file = Path(model), resolve_model_file(Path(model), trust=options.get("trust", NO_TRUST))
    with_data = options.get("data") is not None or recipe is not None
    others = [setting for setting in options.get("settings", ()) if not setting.startswith(_FILE_SETTINGS)]
    needs_data = {f"--set {' '.join(others[:1])}": others, "--limit": limit, "--batch-size": batch_size}
    unused = [option for option, value in needs_data.items() if value not in (None, [])]
    if unused and not with_data:
        raise UsageError(f"{unused[0]} has no effect without data to check the model on", hint="--data D")
    file_format = detect_format(file)
    request = request_for_models([path], recipe, with_data=with_data, **options)
    context = request.context
    if with_data:
        require_data(request)
    if with_data or file_format not in _NO_TENSORFLOW:
        start_tensorflow(threads=context.threads, seed=request.recipe.train.seed, code=request.code)
    inspection = inspect_file(path, file, request, threads=context.threads, on_event=context.on_event)
    if not with_data or inspection.refused is not None:
        return inspection
    return check_on_data(inspection, path, request, limit=limit, batch_size=batch_size or 256)
