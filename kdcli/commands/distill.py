"""kd distill: train the student under the teacher, and leave a run that others can trust."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.events import Note, OnEvent, Planned, ignore_event
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.request import Request, make_request
from kdcli.setup.startup import never_stop

if TYPE_CHECKING:
    from kdcli.jobs.run_stages import Chain
    from kdcli.recipe.gates import Gate, GatesSection
    from kdcli.runs.results import FinishedRun, Plan, RunResult
    from kdcli.setup.context import Context
    from kdcli.setup.run_location import RunLocation


def distill(
    *,
    teacher: Any = None,
    student: Any = None,
    recipe: Any = None,
    data: Any = None,
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    limit: float | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    devices: str | None = None,
    cache_limit: int | None = None,
    signature: str | None = None,
    output: str | None = None,
    trust: Trust = NO_TRUST,
    code: Sequence[str | Path] = (),
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    preflight: bool = True,
    gates: Sequence[str | Gate] = (),
    stop: Callable[[], int | None] = never_stop,
    on_event: OnEvent = ignore_event,
) -> RunResult | FinishedRun | Plan:
    """Distil a teacher into a student.

    Args:
        teacher, student: a path, a run directory or a `keras.Model`; from the recipe when left out. A student
            given as an object is the one that is trained. A list of teachers is an ensemble.
        recipe: a shipped name, a path, a mapping or a `Recipe`; `soft-targets` when left out.
        data: a name, a path, (x, y), (x_train, y_train, x_test, y_test) or a mapping of arrays.
        out: the run directory; a new one below `runs/` when left out.
        settings: `path=value` texts, as for `--set`.
        limit, batch_size, seed, epochs, devices: settings by name.
        signature, output: which signature of a SavedModel, and which of several outputs, of the teacher.
        trust: what files may do: `kdcli.Trust(model=True)` is `--trust-model`.
        code: Python files that define own layers or kinds.
        cache_limit: bytes that the cache of teachers' answers may hold; a fifth of the free disk when left out.
        threads: of TensorFlow, before it has started.
        resume, overwrite: what to do with a run that lies in `out`.
        dry_run: open everything, run one step in memory, return the plan and write nothing.
        preflight: refuse what cannot work.
        gates: bounds on the test figures, such as `accuracy>=0.97`; they win over the recipe's. What fails is
            said in the result.
        stop: asked between steps; an exit code (130, 143) stops after saving.
        on_event: told of progress.

    Returns:
        The finished run; `run.test.accuracy` (`run.test` is None where the data has no test split),
        `run.model_path`. With `dry_run` the plan.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> run = kdcli.distill(recipe="digits", epochs=1, out="runs/a")   # doctest: +SKIP
        >>> run.test.accuracy                                              # doctest: +SKIP
    """
    request = make_request(
        recipe,
        settings=settings,
        teacher=teacher,
        student=student,
        data=data,
        limit=limit,
        batch_size=batch_size,
        seed=seed,
        epochs=epochs,
        devices=devices,
        signature=signature,
        output=output,
        trust=trust,
        code=code,
    )
    from kdcli.evaluation.gates import choose_gates
    from kdcli.jobs.run_stages import find_chain
    from kdcli.setup.run_location import find_location

    chain = find_chain(request, out=out, resume=resume, overwrite=overwrite)
    if chain is not None:
        chosen = choose_gates("distill", gates, chain.request.recipe.gates, on_event=on_event)
        from kdcli.setup.context import Context

        context = Context(threads, stop, on_event, cache_limit=cache_limit, dry_run=dry_run)
        return _in_stages(chain, context, preflight=preflight, gates=chosen)
    location = find_location("distill", request, out=out, resume=resume, overwrite=overwrite)
    chosen = choose_gates("distill", gates, _gate_section(request, location), on_event=on_event)
    if location.finished is not None:
        return _judged(location.finished, chosen, on_event)
    # From here on there is work for NumPy and TensorFlow: a bad recipe never gets this far.
    from kdcli.jobs.build import build_distillation
    from kdcli.jobs.execute import execute
    from kdcli.jobs.plan import make_plan
    from kdcli.jobs.preflight import check_job
    from kdcli.setup.context import Context
    from kdcli.setup.workers import worker_group

    with worker_group(location, out=out, on_event=on_event) as workers:
        context = Context(threads, stop, on_event, cache_limit=cache_limit, dry_run=dry_run, workers=workers)
        job = build_distillation(location, context)
        job.set_gates(chosen)
        plan = make_plan(job, check_job(job) if preflight else (), measured=dry_run)
        if dry_run:
            return plan
        on_event(Planned(plan))
        return execute(job, location)


def _in_stages(
    chain: Chain, context: Context, *, preflight: bool, gates: Sequence[Gate]
) -> RunResult | FinishedRun | Plan:
    """One distillation after another; a chain that is finished is only looked at."""
    from kdcli.jobs.run_stages import plan_chain, run_chain
    from kdcli.models.custom_code import attribute_errors
    from kdcli.runs.results import FinishedRun

    with attribute_errors(chain.request.code):
        if context.dry_run and not chain.is_finished:
            return plan_chain(chain, context, preflight=preflight)
        result = run_chain(chain, context, preflight=preflight, gates=gates)
    return _judged(result, gates, context.on_event) if isinstance(result, FinishedRun) else result


def _gate_section(request: Request, location: RunLocation) -> GatesSection:
    """The gates that are asked for; a run that goes on without a recipe has its own."""
    from kdcli.recipe.reader import read_run_recipe
    from kdcli.runs.directory import RECIPE_FILE

    section = request.recipe.gates
    if location.earlier is not None and not request.recipe_given and not section.gates():
        return read_run_recipe(location.path / RECIPE_FILE).gates
    return section


def _judged(finished: FinishedRun, gates: Sequence[Gate], on_event: OnEvent) -> FinishedRun:
    """A run that had ended before, with what its figures make of the gates."""
    from kdcli.evaluation.gates import collect_metrics, describe_export_gates, judge_gates
    from kdcli.runs.results import relativize_path

    document, test = finished.document, finished.test
    for text in describe_export_gates(gates, relativize_path(finished.run)):
        on_event(Note(text))
    gates = [gate for gate in gates if gate.metric != "size_mb"]
    if not gates or test is None:
        return replace(finished, gates=())
    teacher = document.get("teacher") or {}
    known = collect_metrics(
        replace(test, agreement=teacher.get("agreement")),
        size=document["bytes"],
        parameters=document["parameters"],
        teacher_accuracy=teacher.get("accuracy"),
    )
    return replace(finished, gates=judge_gates(gates, {relativize_path(finished.model_path): known}))
