"""kd evaluate: measure models on one split of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from kdcli.artifacts.measured_models import Measurement, measure_models
from kdcli.errors import UsageError
from kdcli.setup.model_objects import store_objects
from kdcli.setup.named_models import check_limits, request_for_models
from kdcli.setup.request import ModelLike, RecipeLike, RecipeOptions

if TYPE_CHECKING:
    from kdcli.recipe.gates import Gate
    from kdcli.runs.evaluation_results import Evaluation


def evaluate(
    *models: ModelLike,
    recipe: RecipeLike | None = None,
    teacher: ModelLike | None = None,
    split: str = "auto",
    limit: float | None = None,
    per_class: bool = False,
    latency: bool = False,
    runtime: str | None = None,
    latency_command: str | None = None,
    cold: bool = False,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[RecipeOptions],
) -> Evaluation:
    """Measure models on a split: accuracy with interval, loss, calibration, agreement with a teacher, latency.

    Args:
        models: model files, `keras.Model`s, or run directories, which bring their data and preprocessing.
        recipe: for its `data`, `student.input` (every model), `teacher.input` and `gates`.
        teacher: a file, a model or a run directory to compare predictions and latency with.
        split: `auto` (test if there is one, else all), `train`, `validation`, `test`, `all`.
        limit: number of examples of the split, or a fraction of them; stratified.
        per_class: whether to measure precision, recall and F1 of every class.
        latency: whether to time the models, in turns, for about three seconds each.
        runtime: the only runtime to time: `tensorflow`, `litert` or `onnxruntime`.
        latency_command: command that prints the milliseconds of a `{file}`; it replaces timing on this machine.
        cold: whether to measure, in fresh processes, the time to the first output and the peak memory.
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
    unused = next((one for one in options.get("settings", ()) if one.startswith("teacher.")), None)
    timed = latency or latency_command is not None
    measurement = Measurement(split, limit, batch_size or 256, per_class, timed, runtime, latency_command, cold)
    with store_objects([*models, *([] if teacher is None else [teacher])]) as paths:
        named = paths[: len(models)]
        request = request_for_models(named, recipe, gates=gates, **options)
        if unused is not None and teacher is None:
            raise UsageError(
                f"--set {unused} has no effect without --teacher",
                hint=f"for MODEL: --set student.{unused.partition('.')[2]}",
            )
        return measure_models(named, None if teacher is None else paths[-1], request, measurement)
