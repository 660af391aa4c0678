"""What a comparison looks at before it starts: its data, and with `--dry-run` its first arm."""

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
from kdcli.runs.records import hash_arrays
from kdcli.runs.results import Plan
from kdcli.setup.context import Context
from kdcli.setup.request import Request
from kdcli.setup.run_location import RunLocation, check_inputs, data_key, hash_named_inputs, open_data


def open_test_data(arms: Sequence[Arm], context: Context) -> Dataset:
    """The data that every arm is tested on, before anything is trained.

    Raises:
        UsageError: no test split, no labels, or several test splits; a given run that had other inputs.
    """
    tests = {}
    for arm in arms:
        for seed in arm.seeds if arm.splits_per_seed else arm.seeds[:1]:
            dataset = open_data(arm.at(seed))
            _refuse_unmeasurable(dataset)
            tests[_test_sha256(arm.at(seed), dataset, context)] = dataset
    if len(tests) > 1:
        raise UsageError(f"a comparison has one test split, its arms have {len(tests)}", hint="--data D")
    for arm in arms:
        for seed, run in arm.finished.items():
            earlier = read_json(run.run / ENVIRONMENT_FILE)
            request = arm.at(seed, run.run)
            check_inputs(RunLocation(run.run, request, earlier), hash_named_inputs(request))
    return next(iter(tests.values()))


def _test_sha256(request: Request, dataset: Dataset, context: Context) -> str:
    test = dataset.test
    assert test is not None and test.labels is not None
    arrays = [*test.content, test.labels, test.rows]
    return context.memo(("test sha256", *data_key(request)), lambda: hash_arrays(arrays))


def _refuse_unmeasurable(dataset: Dataset) -> None:
    if dataset.test is None:
        raise UsageError(
            f"kd compare needs a test split, and {dataset.name} has none",
            hint="--set 'data.source={train: A.npz, test: B.npz}'",
        )
    if not dataset.labelled or dataset.test.labels is None:
        raise UsageError(f"kd compare needs labels, and {dataset.name} has none", hint="another --data D")


def describe_repeats(arms: Sequence[Arm]) -> tuple[str, ...]:
    """What one or two pairs cannot show, before any of them is trained."""
    fewest = min(len(arm.seeds) for arm in arms if arm.baseline is not None)
    if fewest == 1:
        return (
            "one pair has no variance estimate: the verdict will be about these two files, not about the recipe "
            "(--repeats 3 or more)",
        )
    if fewest == 2:
        factor = t_quantile(ALPHA, 1)
        return (
            f"two pairs show hardly anything: their 95 % interval reaches {factor:.1f} standard errors to each "
            f"side, that of three {t_quantile(ALPHA, 2):.1f} (--repeats 3 or more)",
        )
    return ()


def plan_comparison(
    arms: Sequence[Arm], location: ComparisonDirectory, context: Context, *, preflight: bool
) -> Plan:
    """The plan of the first distilled arm that is to be trained, with the time of all arms; writes nothing.

    Raises:
        UsageError: every distilled arm is finished already.
    """
    first = next((arm for arm in arms if arm.baseline is not None and not arm.finished), None)
    if first is None:
        raise UsageError("--dry-run shows how a student is distilled; every RUN here is finished")
    plans = {first.name: _plan(first, location, context, preflight=preflight)}
    listed: list[dict[str, Any]] = []
    teachers: dict[str, float] = {}
    total = 0.0
    for arm in arms:
        runs, seconds = sum(seed not in arm.finished for seed in arm.seeds), None
        if runs:
            plan, spent = plans.get(arm.name) or _plan(arm, location, context, preflight=False)
            # Outputs that several arms want are computed once; the first stage of a chain stands for the others.
            teachers[plan.targets.get("fingerprint") or arm.name] = plan.seconds["teacher"] or 0.0
            seconds = round(runs * max(1, len(plan.stages)) * ((plan.seconds["training"] or 0.0) + spent), 1)
            total += seconds
        listed.append({"name": arm.name, "runs": len(arm.seeds), "baseline": arm.baseline, "seconds": seconds})
    plan = plans[first.name][0]
    return replace(
        plan,
        arms=tuple(listed),
        seconds={**plan.seconds, "all arms": round(total + sum(teachers.values()), 1)},
        findings=(*plan.findings, *describe_repeats(arms), *describe_baselines(arms)),
    )


def describe_baselines(arms: Sequence[Arm]) -> tuple[str, ...]:
    """How baselines are trained, and which arms learn at another rate."""
    baselines = ", ".join(arm.name for arm in arms if arm.baseline is None)
    found = [f"{baselines}: trained on labels alone with weight 1, as kd train-teacher does"]
    for arm in arms:
        if arm.baseline is not None:
            found.append(rate_finding(last_stage(arm.request).recipe, arm=arm.name, baseline=arm.baseline) or "")
    return tuple(text for text in found if text)


def _plan(arm: Arm, location: ComparisonDirectory, context: Context, *, preflight: bool) -> tuple[Plan, float]:
    """The plan of an arm's first run with the time of its steps, and the seconds until it could start."""
    began = time.perf_counter()
    path = location.path / arm.folder / "dry-run"
    request = replace(arm.at(arm.seeds[0], path), resume=False)
    if request.recipe.stages:
        chain = find_chain(request)
        assert chain is not None
        plan = plan_chain(chain, preflight=preflight)
    else:
        where = RunLocation(path, request)
        job = build_label_training("student", where) if arm.baseline is None else build_distillation(where)
        plan = make_plan(job, check_job(job) if preflight else (), measured=True)
    return plan, time.perf_counter() - began
