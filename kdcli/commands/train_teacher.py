"""kd train-teacher: train the teacher of a recipe on labels."""

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
    """Train the `teacher` of a recipe with its `train` section and a `labels` term of weight 1.

    Args:
        recipe: a shipped name, a path, a mapping or a `Recipe`; `soft-targets` by default.
        teacher: a path or a `keras.Model` that gives the architecture (its weights too with
            `teacher.start: file`); from the recipe by default.
        options: options of `kdcli.RecipeOptions` and `kdcli.RunOptions`.

    Returns:
        The finished run, with `teacher.keras`; the plan with `dry_run`.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> run = kdcli.train_teacher(recipe="digits", out="runs/teacher")   # doctest: +SKIP
    """
    request = make_request(recipe, teacher=teacher, **options)
    # These load NumPy and TensorFlow: errors in a recipe are reported before.
    from kdcli.jobs.build import build_label_training
    from kdcli.jobs.execute import execute
    from kdcli.jobs.plan import make_plan
    from kdcli.jobs.preflight import check_job
    from kdcli.setup.checks import refuse_quantized_training
    from kdcli.setup.ensemble_requests import refuse_ensemble
    from kdcli.setup.run_location import find_location
    from kdcli.setup.workers import join_run

    refuse_ensemble(request, command="kd train-teacher")
    refuse_quantized_training(request.recipe, command="kd train-teacher")
    location, context = find_location("train-teacher", request), request.context
    if location.finished is not None:
        return location.finished
    for text in _list_ignored_settings(location.request.recipe, cache_limit=context.cache_limit):
        context.on_event(Note(text))
    with join_run(location) as location:
        job = build_label_training("teacher", location)
        plan = make_plan(job, check_job(job) if request.preflight else (), measured=context.dry_run)
        if context.dry_run:
            return plan
        context.on_event(Planned(plan))
        return execute(job, location)


def _list_ignored_settings(recipe: Recipe, *, cache_limit: int | None) -> list[str]:
    """Notes on settings that are for students only."""
    losses = [loss.label for loss in recipe.losses or () if loss.needs_teacher]
    notes = {
        f"a teacher is trained on labels only; ignored losses: {', '.join(losses)}": losses,
        "ignored stages: kd distill trains the stages of a recipe": recipe.stages,
        "ignored --cache-limit: no teacher outputs are cached while a teacher is trained": cache_limit,
        "ignored gates: kd distill checks the gates of a recipe": recipe.gates.gates(),
    }
    return [text for text, applies in notes.items() if applies not in (None, (), [], {})]
