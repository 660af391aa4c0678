"""Run a comparison: checks, training of all arms, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdcli.comparison.arms import Arm
from kdcli.comparison.dry_run import describe_baselines, describe_repeats, open_test_data, plan_comparison
from kdcli.comparison.report import write_report
from kdcli.comparison.train_arms import ArmTraining
from kdcli.errors import UsageError
from kdcli.evaluation.gates import check_gate_metrics, choose_gates
from kdcli.events import Note, ignore_event
from kdcli.models.custom_code import attribute_errors
from kdcli.recipe.gates import Gate
from kdcli.runs.comparison_directory import ComparisonDirectory
from kdcli.runs.comparison_results import Comparison
from kdcli.runs.results import Plan
from kdcli.setup.checks import refuse_quantized_training
from kdcli.setup.request import RunOptions, make_context
from kdcli.setup.startup import start_tensorflow


def run_comparison(
    arms: Sequence[Arm], options: RunOptions, *, gates: Sequence[str | Gate], latency: bool
) -> Comparison | Plan:
    """Train the arms that are not finished, and write the report; with `dry_run`, only make a plan.

    Args:
        arms: baselines and distilled arms.
        options: options of the command.
        gates: gates for every distilled arm, in addition to those of its recipe.
        latency: whether to time the models.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.
    """
    first, on_event = arms[-1].request, options.get("on_event", ignore_event)
    directory = ComparisonDirectory.find(
        options.get("out"),
        first.name,
        resume=options.get("resume", False),
        overwrite=options.get("overwrite", False),
    )
    distilled = [arm for arm in arms if arm.baseline is not None]
    chosen = {
        arm.name: choose_gates("compare", gates, arm.request.recipe.gates, latency=latency, on_event=on_event)
        for arm in distilled
    }
    _refuse_workers(arms, options)
    for arm in arms:
        refuse_quantized_training(arm.request.recipe, command="kd compare")
    context = make_context(options)
    arms = [replace(arm, request=replace(arm.request, context=context)) for arm in arms]
    preflight = options.get("preflight", True)
    start_tensorflow(threads=context.threads, seed=first.recipe.train.seed, code=first.code)
    with attribute_errors(first.code):
        dataset = open_test_data(arms, context)
    for bounds in chosen.values():
        check_gate_metrics("compare", bounds, dataset.task, labelled=dataset.labelled)
    if context.dry_run:
        with attribute_errors(first.code):
            return plan_comparison(arms, directory, context, preflight=preflight)
    for text in describe_repeats(arms):
        on_event(Note(text, warning=True))
    for arm in arms:
        on_event(Note(f"arm {arm.name}: {len(arm.seeds)} {'run' if len(arm.seeds) == 1 else 'runs'}"))
    for text in describe_baselines(arms):
        on_event(Note(text))
    directory.open(inputs=[path for arm in arms for path in arm.inputs])
    training = ArmTraining(directory.path, context, preflight=preflight)
    with attribute_errors(first.code):
        training.run(arms)
    with directory.hold_lock():
        return write_report(arms, training, directory, dataset, latency=latency, gates=chosen)


def _refuse_workers(arms: Sequence[Arm], options: RunOptions) -> None:
    # Finished runs may be those of workers: their baseline is trained here, by one process.
    trained = not any(arm.finished for arm in arms)
    in_recipe = trained and any(arm.request.recipe.train.devices == "workers" for arm in arms)
    if options.get("devices") == "workers" or in_recipe:
        raise UsageError(
            "train.devices: workers share one training; a comparison has many",
            hint="start several processes with the same --out --resume and --devices auto: they share its runs",
        )
