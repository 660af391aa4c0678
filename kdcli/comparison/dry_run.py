"""Checks before a comparison: its test split, what its repeats can show, and the plan of a dry run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kdcli.comparison.arms import Arm
from kdcli.data.dataset import Dataset
from kdcli.errors import UsageError
from kdcli.evaluation.statistics import ALPHA, t_quantile
from kdcli.jobs.build import build_distillation, build_label_training
from kdcli.jobs.plan import make_plan
from kdcli.jobs.preflight import check_job
from kdcli.jobs.run_stages import find_chain, plan_chain
from kdcli.jobs.stages import last_stage
from kdcli.jobs.training_findings import rate_finding
from kdcli.runs.comparison_directory import ComparisonDirectory
from kdcli.runs.directory import ENVIRONMENT_FILE, read_json
from kdcli.runs.results import Plan
from kdcli.runs.run_environment import hash_arrays
from kdcli.setup.context import Context
from kdcli.setup.request import Request
from kdcli.setup.run_location import RunLocation, check_inputs, data_key, hash_named_inputs, open_data


def open_test_data(arms: Sequence[Arm], context: Context) -> Dataset:
    """Open the data, and check that all arms have the same test split, before anything is trained.

    Raises:
        UsageError: there is no test split, no labels, or more than one test split; or a finished run had other
            inputs.
    """
    tests = {}
    for arm in arms:
        for seed in arm.seeds if arm.splits_per_seed else arm.seeds[:1]:
            dataset = open_data(arm.at(seed))
            _check_test_split(dataset)
            tests[_hash_test_split(arm.at(seed), dataset, context)] = dataset
    if len(tests) > 1:
        raise UsageError(
            f"the arms of a comparison must have one test split (got {len(tests)})",
            hint="--data D",
        )
    for arm in arms:
        for seed, run in arm.finished.items():
            earlier = read_json(run.run / ENVIRONMENT_FILE)
            request = arm.at(seed, run.run)
            check_inputs(RunLocation(run.run, request, earlier), hash_named_inputs(request))
    return next(iter(tests.values()))


def _hash_test_split(request: Request, dataset: Dataset, context: Context) -> str:
    test = dataset.test
    assert test is not None and test.labels is not None
    arrays = [*test.content, test.labels, test.rows]
    return context.memo(("test sha256", *data_key(request)), lambda: hash_arrays(arrays))


def _check_test_split(dataset: Dataset) -> None:
    if dataset.test is None:
        raise UsageError(
            f"kd compare needs a test split; {dataset.name} has none",
            hint="--set 'data.source={train: A.npz, test: B.npz}'",
        )
    if not dataset.labelled or dataset.test.labels is None:
        raise UsageError(
            f"kd compare needs labels; {dataset.name} has none", hint="use data with labels: --data D"
        )


def describe_repeats(arms: Sequence[Arm]) -> tuple[str, ...]:
    """A warning about fewer than three pairs."""
    fewest = min(len(arm.seeds) for arm in arms if arm.baseline is not None)
    if fewest == 1:
        return (
            "one pair has no variance estimate: the verdict will be about these two files, not about the recipe "
            "(use --repeats 3 or more)",
        )
    if fewest == 2:
        factor = t_quantile(ALPHA, 1)
        return (
            f"two pairs show very little: their 95% interval is ±{factor:.1f} standard errors, compared with "
            f"±{t_quantile(ALPHA, 2):.1f} for three (use --repeats 3 or more)",
        )
    return ()


def plan_comparison(
    arms: Sequence[Arm], directory: ComparisonDirectory, context: Context, *, preflight: bool
) -> Plan:
    """The plan of the first distilled arm to train, with the time of all arms; writes nothing.

    Raises:
        UsageError: every distilled arm is already finished.
    """
    first = next((arm for arm in arms if arm.baseline is not None and not arm.finished), None)
    if first is None:
        raise UsageError("--dry-run: nothing to distill, because every RUN is finished")
    plans = {first.name: _plan(first, directory, context, preflight=preflight)}
    rows: list[dict[str, Any]] = []
    teachers: dict[str, float] = {}
    total = 0.0
    for arm in arms:
        runs, seconds = sum(seed not in arm.finished for seed in arm.seeds), None
        if runs:
            plan, spent = plans.get(arm.name) or _plan(arm, directory, context, preflight=False)
            # Outputs that several arms need are computed once. The first stage stands for all stages of a chain.
            teachers[plan.targets.get("fingerprint") or arm.name] = plan.seconds["teacher"] or 0.0
            seconds = round(runs * max(1, len(plan.stages)) * ((plan.seconds["training"] or 0.0) + spent), 1)
            total += seconds
        rows.append({"name": arm.name, "runs": len(arm.seeds), "baseline": arm.baseline, "seconds": seconds})
    plan = plans[first.name][0]
    return replace(
        plan,
        arms=tuple(rows),
        seconds={**plan.seconds, "all arms": round(total + sum(teachers.values()), 1)},
        findings=(*plan.findings, *describe_repeats(arms), *describe_baselines(arms)),
    )


def describe_baselines(arms: Sequence[Arm]) -> tuple[str, ...]:
    """How baselines are trained, and which arms learn at another effective rate."""
    baselines = ", ".join(arm.name for arm in arms if arm.baseline is None)
    found = [f"{baselines}: trained on labels only, with weight 1, as kd train-teacher does"]
    for arm in arms:
        if arm.baseline is not None:
            found.append(rate_finding(last_stage(arm.request).recipe, arm=arm.name, baseline=arm.baseline) or "")
    return tuple(text for text in found if text)


def _plan(arm: Arm, directory: ComparisonDirectory, context: Context, *, preflight: bool) -> tuple[Plan, float]:
    """The plan of an arm's first run with the measured time of its steps, and the seconds to prepare it."""
    began = time.perf_counter()
    path = directory.path / arm.folder / "dry-run"
    request = replace(arm.at(arm.seeds[0], path), resume=False)
    if request.recipe.stages:
        chain = find_chain(request)
        assert chain is not None
        plan = plan_chain(chain, preflight=preflight)
    else:
        location = RunLocation(path, request)
        job = build_label_training("student", location) if arm.baseline is None else build_distillation(location)
        plan = make_plan(job, check_job(job) if preflight else (), measured=True)
    return plan, time.perf_counter() - began
