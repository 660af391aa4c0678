"""kd evaluate: one or several models on one split."""

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
    """Measure models on a split: accuracy with its interval, loss, calibration, agreement with a teacher, speed.

    Args:
        models: model files or run directories, which bring their data and preprocessing.
        recipe: for its `data`, `student.input` (every model), `teacher.input` and `gates`.
        teacher: a file or run directory to compare predictions and speed with.
        split: `auto` (test where there is one, else everything), `train`, `validation`, `test`, `all`.
        limit: number of examples of the split, or a fraction of them; stratified.
        per_class: precision, recall and F1 of every class too.
        latency: time the models, in turns, for about three seconds each.
        runtime: time only models that `tensorflow`, `litert` or `onnxruntime` runs.
        gates: bounds such as `accuracy>=0.97`; they replace the recipe's for the same metric.
        options: those of `kdcli.RecipeOptions`; data of the first run when left out. `batch_size` is 256 when left
            out, and changes the speed, not the metrics.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.evaluate("student.keras", data="digits").models[0].quality.accuracy   # doctest: +SKIP
    """
    if not models:
        raise UsageError("no model to evaluate", hint="kd evaluate MODEL|RUN ... --data D")
    batch_size = options.pop("batch_size", None)
    check_limits(limit=limit, batch_size=batch_size, split=split)
    request = request_for_models(models, recipe, gates=gates, **options)
    idle = next((one for one in options.get("settings", ()) if one.startswith("teacher.")), None)
    if idle is not None and teacher is None:
        raise UsageError(
            f"--set {idle} has no effect without --teacher",
            hint=f"for MODEL: --set student.{idle.partition('.')[2]}",
        )
    how = Measurement(split, limit, batch_size or 256, per_class=per_class, latency=latency, runtime=runtime)
    return measure_models(models, teacher, request, how)
