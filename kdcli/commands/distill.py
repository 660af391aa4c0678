"""kd distill: train the student under the teacher, and leave a run that others can trust."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.events import Note, OnEvent, Planned, ignore
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.request import Asked, ask
from kdcli.setup.startup import never

if TYPE_CHECKING:
    from kdcli.jobs.run_stages import Chain
    from kdcli.recipe.gates import Gate, GatesSection
    from kdcli.runs.results import FinishedRun, Plan, RunResult
    from kdcli.setup.context import Surroundings
    from kdcli.setup.run_location import Place


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
    stop: Callable[[], int | None] = never,
    on_event: OnEvent = ignore,
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
    asked = ask(
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
    from kdcli.setup.run_location import find_place

    chain = find_chain(asked, out=out, resume=resume, overwrite=overwrite)
    if chain is not None:
        chosen = choose_gates("distill", gates, chain.asked.recipe.gates, on_event=on_event)
        from kdcli.setup.context import Surroundings

        around = Surroundings(threads, stop, on_event, cache_limit=cache_limit, dry_run=dry_run)
        return _in_stages(chain, around, preflight=preflight, gates=chosen)
    place = find_place("distill", asked, out=out, resume=resume, overwrite=overwrite)
    chosen = choose_gates("distill", gates, _gate_section(asked, place), on_event=on_event)
    if place.finished is not None:
        return _judged(place.finished, chosen, on_event)
    # From here on there is work for NumPy and TensorFlow: a bad recipe never gets this far.
    from kdcli.jobs.build import open_distillation
    from kdcli.jobs.execute import carry_out
    from kdcli.jobs.plan import make_plan
    from kdcli.jobs.preflight import check_before
    from kdcli.setup.context import Surroundings
    from kdcli.setup.workers import working_together

    with working_together(place, out=out, on_event=on_event) as workers:
        around = Surroundings(threads, stop, on_event, cache_limit=cache_limit, dry_run=dry_run, workers=workers)
        job = open_distillation(place, around)
        job.hold_to(chosen)
        plan = make_plan(job, check_before(job) if preflight else (), measured=dry_run)
        if dry_run:
            return plan
        on_event(Planned(plan))
        return carry_out(job, place)


def _in_stages(
    chain: Chain, around: Surroundings, *, preflight: bool, gates: Sequence[Gate]
) -> RunResult | FinishedRun | Plan:
    """One distillation after another; a chain that is finished is only looked at."""
    from kdcli.jobs.run_stages import carry_out_chain, plan_chain
    from kdcli.models.custom_code import blamed
    from kdcli.runs.results import FinishedRun

    with blamed(chain.asked.code):
        if around.dry_run and not chain.is_finished:
            return plan_chain(chain, around, preflight=preflight)
        result = carry_out_chain(chain, around, preflight=preflight, gates=gates)
    return _judged(result, gates, around.on_event) if isinstance(result, FinishedRun) else result


def _gate_section(asked: Asked, place: Place) -> GatesSection:
    """The gates that are asked for; a run that goes on without a recipe has its own."""
    from kdcli.recipe.reader import read_run
    from kdcli.runs.directory import RECIPE

    section = asked.recipe.gates
    if place.earlier is not None and not asked.recipe_given and not section.gates():
        return read_run(place.path / RECIPE).gates
    return section


def _judged(finished: FinishedRun, gates: Sequence[Gate], on_event: OnEvent) -> FinishedRun:
    """A run that had ended before, with what its figures make of the gates."""
    from kdcli.evaluation.gates import figures, judge, left_to_export
    from kdcli.runs.results import relative

    document, test = finished.document, finished.test
    for text in left_to_export(gates, relative(finished.run)):
        on_event(Note(text))
    gates = [gate for gate in gates if gate.metric != "size_mb"]
    if not gates or test is None:
        return replace(finished, gates=())
    teacher = document.get("teacher") or {}
    known = figures(
        replace(test, agreement=teacher.get("agreement")),
        size=document["bytes"],
        parameters=document["parameters"],
        teacher_accuracy=teacher.get("accuracy"),
    )
    return replace(finished, gates=judge(gates, {relative(finished.model_path): known}))
