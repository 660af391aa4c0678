"""kd evaluate: measure models on one split of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kdcli.artifacts.measured_models import Measurement, measure_models
from kdcli.errors import UsageError
from kdcli.setup.named_models import check_limits, request_for_models
from kdcli.setup.request import RecipeLike, RecipeOptions

if TYPE_CHECKING:
    from kdcli.recipe.gates import Gate
    from kdcli.runs.evaluation_results import Evaluation


def evaluate(
    *models: str | Path,
    recipe: RecipeLike | None = None,
    teacher: str | Path | None = None,
    split: str = "auto",
    limit: float | None = None,
    per_class: bool = False,
    latency: bool = False,
    runtime: str | None = None,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[RecipeOptions],
) -> Evaluation:
    """Measure models on a split: accuracy with interval, loss, calibration, agreement with a teacher, latency.

    Args:
        models: model files or run directories, which bring their data and preprocessing.
        recipe: for its `data`, `student.input` (every model), `teacher.input` and `gates`.
        teacher: a file or run directory to compare predictions and latency with.
        split: `auto` (test if there is one, else all), `train`, `validation`, `test`, `all`.
        limit: number of examples of the split, or a fraction of them; stratified.
        per_class: whether to measure precision, recall and F1 of every class.
        latency: whether to time the models, in turns, for about three seconds each.
        runtime: the only runtime to time: `tensorflow`, `litert` or `onnxruntime`.
        gates: bounds such as `accuracy>=0.97`; they replace those of the recipe for the same metric.
        options: options of `kdcli.RecipeOptions`. The data is by default that of the first run. `batch_size`, 256
            by default, changes the speed, not the metrics.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.evaluate("student.keras", data="digits").models[0].quality.accuracy   # doctest: +SKIP
    """
    if not models:
        raise UsageError("no model to evaluate", hint="kd evaluate MODEL|RUN ... --data D")
    batch_size = options.pop("batch_size", None)
    check_limits(limit=limit, batch_size=batch_size, split=split)
    request = request_for_models(models, recipe, gates=gates, **options)
    unused = next((one for one in options.get("settings", ()) if one.startswith("teacher.")), None)
    if unused is not None and teacher is None:
        raise UsageError(
            f"--set {unused} has no effect without --teacher",
            hint=f"for MODEL: --set student.{unused.partition('.')[2]}",
        )
    measurement = Measurement(
        split, limit, batch_size or 256, per_class=per_class, latency=latency, runtime=runtime
    )
    return measure_models(models, teacher, request, measurement)
