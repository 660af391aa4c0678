"""kd distill: train a student on the outputs of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from kdcli.setup.request import ModelLike, RecipeLike, RunOptions, make_request

if TYPE_CHECKING:
    from kdcli.recipe.gates import Gate
    from kdcli.runs.results import FinishedRun, Plan, RunResult


def distill(
    *,
    recipe: RecipeLike | None = None,
    teacher: ModelLike | Sequence[ModelLike] | None = None,
    student: ModelLike | None = None,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[RunOptions],
) -> RunResult | FinishedRun | Plan:
    """Distil a teacher into a student.

    Args:
        recipe: a shipped name, a path, a mapping or a `Recipe`; `soft-targets` by default.
        teacher: a path, a run directory or a `keras.Model`; from the recipe by default. A list is an ensemble.
        student: a path, a run directory or a `keras.Model`, which is trained in place; from the recipe by default.
        gates: bounds on test metrics, such as `accuracy>=0.97`; they replace those of the recipe for the same
            metric. The result says which gates failed.
        options: options of `kdcli.RecipeOptions` and `kdcli.RunOptions`.

    Returns:
        The finished run, with `run.test.accuracy` (`run.test` is None if the data has no test split) and
        `run.model_path`; the plan with `dry_run`.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> run = kdcli.distill(recipe="digits", epochs=1, out="runs/a")   # doctest: +SKIP
        >>> run.test.accuracy                                              # doctest: +SKIP
    """
    request = make_request(recipe, teacher=teacher, student=student, gates=gates, **options)
    # These load NumPy and TensorFlow: errors in a recipe are reported before.
    from kdcli.compression.quantized_distillation import distill_and_quantize
    from kdcli.jobs.run_distillation import run_distillation
    from kdcli.jobs.run_stages import read_stored_recipe

    request = read_stored_recipe(request)
    if request.recipe.train.quantize is not None:
        return distill_and_quantize(request)
    return run_distillation(request)
