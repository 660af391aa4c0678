"""kd distill: train a student on the outputs of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from kdcli.events import Planned
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
    from kdcli.jobs.build import build_distillation
    from kdcli.jobs.execute import execute
    from kdcli.jobs.finished_run import choose_run_gates, judge_finished
    from kdcli.jobs.plan import make_plan
    from kdcli.jobs.preflight import check_job
    from kdcli.jobs.run_stages import distill_in_stages
    from kdcli.setup.run_location import find_location
    from kdcli.setup.workers import join_run

    if request.recipe.stages or request.stored_stages:
        return distill_in_stages(request)
    location, on_event = find_location("distill", request), request.context.on_event
    chosen = choose_run_gates(location)
    if location.finished is not None:
        return judge_finished(location.finished, chosen, on_event)
    with join_run(location) as location:
        job = build_distillation(location)
        job.set_gates(chosen)
        findings = check_job(job) if request.preflight else ()
        plan = make_plan(job, findings, measured=request.context.dry_run)
        if request.context.dry_run:
            return plan
        on_event(Planned(plan))
        return execute(job, location)
