"""kd train-teacher: train the recipe's teacher on labels, with the same loop that trains a student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from kdcli.events import Note, Planned
from kdcli.setup.request import ModelLike, RecipeLike, RunOptions, make_request

if TYPE_CHECKING:
    from kdcli.recipe.sections import Recipe
    from kdcli.runs.results import FinishedRun, Plan, RunResult


def train_teacher(
    *, recipe: RecipeLike | None = None, teacher: ModelLike | None = None, **options: Unpack[RunOptions]
) -> RunResult | FinishedRun | Plan:
    """Train a teacher: the recipe's `teacher` with its `train` section and a `labels` term of weight 1.

    Args:
        recipe: a shipped name, a path, a mapping or a `Recipe`; `soft-targets` when left out.
        teacher: a path or a `keras.Model` that gives the architecture (its weights too with
            `teacher.start: file`); the recipe's when left out.
        options: those of `kdcli.RecipeOptions` and `kdcli.RunOptions`.

    Returns:
        The finished run, with `teacher.keras`; with `dry_run` the plan.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> run = kdcli.train_teacher(recipe="digits", out="runs/teacher")   # doctest: +SKIP
    """
    request = make_request(recipe, teacher=teacher, **options)
    # From here on NumPy and TensorFlow are loaded: a bad recipe never gets this far.
    from kdcli.jobs.build import build_label_training
    from kdcli.jobs.execute import execute
    from kdcli.jobs.plan import make_plan
    from kdcli.jobs.preflight import check_job
    from kdcli.setup.ensemble_members import refuse_ensemble
    from kdcli.setup.run_location import find_location
    from kdcli.setup.workers import join_run

    if request.recipe.is_ensemble:
        refuse_ensemble(request, command="kd train-teacher")
    location, context = find_location("train-teacher", request), request.context
    if location.finished is not None:
        return location.finished
    for text in _ignored_settings(location.request.recipe, cache_limit=context.cache_limit):
        context.on_event(Note(text))
    with join_run(location) as location:
        job = build_label_training("teacher", location)
        plan = make_plan(job, check_job(job) if request.preflight else (), measured=context.dry_run)
        if context.dry_run:
            return plan
        context.on_event(Planned(plan))
        return execute(job, location)


def _ignored_settings(recipe: Recipe, *, cache_limit: int | None) -> list[str]:
    """Notes on what is there for a student only."""
    ignored = [loss.label for loss in recipe.losses or () if loss.needs_teacher]
    notes = {
        f"a teacher learns from labels alone: {', '.join(ignored)} of the recipe is left out": ignored,
        "stages are for the student: kd distill trains those of the recipe": recipe.stages,
        "--cache-limit is for kd distill and kd compare: a teacher in training has no cached outputs": cache_limit,
        "gates are for the student: kd distill checks those of the recipe": recipe.gates.gates(),
    }
    return [text for text, applies in notes.items() if applies not in (None, (), [], {})]
