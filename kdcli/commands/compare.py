"""kd compare: is the distilled student better than the same student trained alone?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent, ignore_event
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.startup import never_stop

if TYPE_CHECKING:
    from kdcli.runs.comparison_results import Comparison
    from kdcli.runs.results import Plan


def compare(
    *,
    teacher: Any = None,
    students: Sequence[Any] = (),
    recipes: Sequence[Any] = (),
    distilled: Sequence[str | Path] = (),
    data: Any = None,
    repeats: int | None = None,
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
    latency: bool = True,
    gates: Sequence[Any] = (),
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    preflight: bool = True,
    stop: Callable[[], int | None] = never_stop,
    on_event: OnEvent = ignore_event,
) -> Comparison | Plan:
    """Train every student under every recipe and alone, with the same seeds, and say what distillation gained.

    For each distinct student, data and train section one twin is trained on labels alone: same batches, steps and
    selection on validation. Runs stay in `out/<student>/<recipe>/seed-<k>`.

    Args:
        teacher: a path, a run directory or a `keras.Model`; from the recipe when left out.
        students: paths, run directories or models; each recipe's own when left out.
        recipes: names, paths, mappings or `Recipe`s; `soft-targets` when left out.
        distilled: finished runs of `kd distill` to compare; only their twins are trained.
        data, settings, limit, batch_size, epochs, devices, cache_limit, signature, output, trust, code, threads,
            preflight,
            stop, on_event: as in `kdcli.distill`.
        repeats: pairs of each arm, 3 when left out; pair k starts both twins from fresh weights of seed k.
        seed: of the first pair; split, limit and views are the same in all of them.
        out: the directory of the comparison; a new one below `runs/` when left out.
        latency: time the teacher and one model of each arm.
        gates: `kdcli.recipe.gates.Gate`s, or texts such as `gain>=0.005`, for every distilled arm.
        resume, overwrite: what to do with a comparison that lies in `out`.
        dry_run: open everything, run one step of the first distilled arm in memory, return its plan with the list
            of all arms, and write nothing.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.compare(teacher="t.keras", recipes=["digits"]).students[1].verdict   # doctest: +SKIP
    """
    from kdcli.comparison.arms import make_arms

    if repeats is not None and repeats < 1:
        raise UsageError(f"--repeats must be 1 or more, got {repeats}")
    arms = make_arms(
        teacher=teacher,
        students=students,
        recipes=recipes,
        distilled=distilled,
        repeats=repeats,
        settings=settings,
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
    # From here on there is work for NumPy and TensorFlow: a bad recipe never gets this far.
    from kdcli.comparison.dry_run import describe_baselines, describe_repeats, open_test_data, plan_comparison
    from kdcli.comparison.report import write_report
    from kdcli.comparison.train_arms import ArmTraining
    from kdcli.evaluation.gates import check_gate_metrics, choose_gates
    from kdcli.models.custom_code import attribute_errors
    from kdcli.runs.comparison_directory import ComparisonDirectory
    from kdcli.setup.context import Context
    from kdcli.setup.startup import start_tensorflow

    first = arms[-1].request
    location = ComparisonDirectory.find(out, first.name, resume=resume, overwrite=overwrite)
    measured: dict[str, Any] = {"on_event": on_event, "latency": latency}
    distilling = [arm for arm in arms if arm.baseline is not None]
    chosen = {a.name: choose_gates("compare", gates, a.request.recipe.gates, **measured) for a in distilling}
    # A distilled run of workers has a twin that is trained here, alone.
    if devices == "workers" or (not distilled and any(a.request.recipe.train.devices == "workers" for a in arms)):
        raise UsageError(
            "train.devices: workers share one training; a comparison has many",
            hint="several processes with the same --out --resume share its runs, and --devices auto",
        )
    start_tensorflow(threads=threads, seed=first.recipe.train.seed, code=first.code)
    context = Context(threads, stop, on_event, cache_limit=cache_limit, dry_run=dry_run)
    with attribute_errors(first.code):
        dataset = open_test_data(arms, context)
    for bounds in chosen.values():
        check_gate_metrics("compare", bounds, dataset.task, labelled=dataset.labelled)
    if dry_run:
        with attribute_errors(first.code):
            return plan_comparison(arms, location, context, preflight=preflight)
    for text in describe_repeats(arms):
        on_event(Note(text, warning=True))
    for arm in arms:
        on_event(Note(f"arm {arm.name}: {len(arm.seeds)} {'run' if len(arm.seeds) == 1 else 'runs'}"))
    for text in describe_baselines(arms):
        on_event(Note(text))
    location.open(inputs=[path for arm in arms for path in arm.inputs])
    trainings = ArmTraining(location.path, context, preflight=preflight)
    with attribute_errors(first.code):
        trainings.run(arms)
    with location.hold_report_lock():
        return write_report(arms, trainings, location, dataset, latency=latency, gates=chosen)
