"""Distillation in stages: each stage's student is the teacher of the next.

Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant", arXiv:1902.03393.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.errors import Interrupted, StorageError, UsageError
from kdcli.evaluation.gates import choose_gates
from kdcli.events import Note, Planned
from kdcli.jobs.build import build_distillation
from kdcli.jobs.execute import execute
from kdcli.jobs.finished_run import judge_finished
from kdcli.jobs.job import Job, format_recipe, resolve_recipe
from kdcli.jobs.plan import make_plan
from kdcli.jobs.preflight import check_job
from kdcli.jobs.stages import Stage, check_stages, describe_stages, resolve_stages, stages_of
from kdcli.models.custom_code import attribute_errors
from kdcli.recipe.gates import Gate
from kdcli.recipe.reader import read_recipe
from kdcli.runs import writer
from kdcli.runs.directory import ENVIRONMENT_FILE, RECIPE_FILE, STAGES_FOLDER, SUMMARY_FILE
from kdcli.runs.results import FinishedRun, Plan, RunResult, relativize_path
from kdcli.setup.request import Request
from kdcli.setup.run_location import (
    RunLocation,
    find_directory,
    find_location,
    refuse_other_settings,
    replace_sources,
)

# Called before each stage is trained: the stage, its job, and the findings of the preflight.
Announce = Callable[[Stage, Job, tuple[str, ...]], None]


@dataclass(frozen=True)
class Chain:
    """A chain of distillations.

    Args:
        path: the directory of the chain, which is also the run of the last stage.
        request: with the recipe of all stages.
        stages: in order.
    """

    path: Path
    request: Request
    stages: tuple[Stage, ...]

    @property
    def recipe(self) -> Path:
        """The path of the stored recipe, with all stages and options."""
        return self.path / STAGES_FOLDER / RECIPE_FILE

    @property
    def is_finished(self) -> bool:
        """Whether the last stage has finished."""
        return self.request.resume and (self.path / SUMMARY_FILE).exists()

    def open(self) -> None:
        """Create or empty the directory, and store the recipe in it for `--resume`.

        Raises:
            UsageError: it holds files that must not be deleted.
            StorageError: it cannot be written, or another process works in it.
        """
        run = RunLocation(self.path, self.request).open()
        try:
            if not self.recipe.exists():
                writer.make_folder(self.recipe.parent)
                writer.write_text(self.recipe, format_recipe(self.request.recipe))
        finally:
            run.close()


def find_chain(request: Request) -> Chain | None:
    """Return the chain of the request, or of the run that it resumes; None for a single distillation.

    Raises:
        UsageError: the directory is in use or holds another run, or a stage is incomplete.
    """
    request = read_stored_recipe(request)
    if not request.recipe.stages:
        return None
    request = _complete(request)
    if request.recipe.train.devices == "workers":
        raise UsageError(
            "train.devices=workers is not supported for a recipe with stages",
            hint="run kd distill once per stage, with the previous run as --teacher",
        )
    path = find_directory("distill", request)
    if request.resume and (path / ENVIRONMENT_FILE).exists() and not (path / STAGES_FOLDER / RECIPE_FILE).exists():
        raise UsageError(f"{path} holds a run without stages", hint="another --out, or --overwrite")
    stages = stages_of(request, path)
    check_stages(stages)
    return Chain(path, request, stages)


def read_stored_recipe(request: Request) -> Request:
    """The request to resume a chain, with the stored recipe if the command names none; others are unchanged.

    Raises:
        UsageError: the directory holds a chain with other settings.
    """
    stored = request.stored_stages
    if stored is None:
        return request
    if (stored.parents[1] / SUMMARY_FILE).exists():
        # A finished chain is shown without the user's Python files.
        request = replace(request, custom=replace(request.custom, keep_unknown=True))
    recipe = read_recipe(stored, custom=request.custom).recipe
    requested = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    if not request.recipe_given:
        refuse_other_settings(request, requested, stored.parents[1])
        request = replace(request, recipe=replace_sources(recipe, request), recipe_given=True)
    # An option may equal the recipe's setting and still differ from that of a stage.
    refuse_other_settings(_complete(request), requested, stored.parents[1])
    return request


def _complete(request: Request) -> Request:
    """The request with options and required files written into its recipe."""
    request = resolve_stages(request)
    return replace(request, recipe=resolve_recipe(request.recipe, {}, request.custom))


def distill_in_stages(request: Request) -> RunResult | FinishedRun | Plan:
    """Run or plan the stages of a request one after another; return the result of the last.

    Raises:
        KdError: a stage fails.
    """
    chain = find_chain(request)
    if chain is None:
        raise UsageError(f"{request.out} holds no run with stages")
    context, preflight = request.context, request.preflight
    gates = choose_gates("distill", request.gates, chain.request.recipe.gates, on_event=context.on_event)

    def announce(_: Stage, job: Job, findings: tuple[str, ...]) -> None:
        context.on_event(Planned(make_plan(job, findings, measured=False)))

    with attribute_errors(chain.request.code):
        if context.dry_run and not chain.is_finished:
            return plan_chain(chain, preflight=preflight)
        result = run_chain(chain, announce=announce, preflight=preflight, gates=gates)
    return judge_finished(result, gates, context.on_event) if isinstance(result, FinishedRun) else result


def run_chain(
    chain: Chain, *, announce: Announce, preflight: bool, gates: Sequence[Gate] = ()
) -> RunResult | FinishedRun:
    """Train the unfinished stages in order; return the result of the last.

    Args:
        chain: from `find_chain`.
        announce: called before each stage is trained.
        preflight: check each stage before it is trained.
        gates: for the last stage.

    Raises:
        Interrupted: `stop` returned an exit code; `--resume` continues in the same stage.
        StorageError: a stage of a finished chain is missing.
        KdError: a stage fails.
    """
    done: list[RunResult | FinishedRun] = []
    opened = chain.request.resume and chain.recipe.exists()
    for stage in chain.stages:
        location = _location(chain, stage, fresh=not (opened or chain.request.resume))
        if location.finished is not None:
            done.append(location.finished)
            continue
        if chain.is_finished:
            raise StorageError(
                f"{chain.path} is finished, but its stage {stage.number} ({stage.path}) is missing",
                hint="train it again: --overwrite",
            )
        try:
            job = _build_stage(stage, location, gates, done)
            announce(stage, job, check_job(job) if preflight else ())
            if not opened:
                chain.open()
                opened = True
            done.append(execute(job, location))
        except Interrupted as interrupted:
            interrupted.run = chain.path if opened else None
            raise
    return done[-1]


def _build_stage(
    stage: Stage, location: RunLocation, gates: Sequence[Gate], done: Sequence[RunResult | FinishedRun]
) -> Job:
    location.request.context.on_event(
        Note(f"stage {stage.number} of {stage.count}: {relativize_path(stage.path)}")
    )
    job = build_distillation(location)
    # Gates that the last stage cannot measure are refused before the first stage is trained.
    job.set_gates(gates, is_last=stage.is_last)
    if stage.is_last:
        job.stages = tuple(_record(result) for result in done)
    else:
        job.gates = job.exported_gates = ()
    return job


def plan_chain(chain: Chain, *, preflight: bool) -> Plan:
    """Return the plan of the first unfinished stage, with the list of all stages; write nothing."""
    finished = 0
    for stage in chain.stages:
        location = _location(chain, stage, fresh=not chain.request.resume)
        if location.finished is None:
            break
        finished += 1
    job = build_distillation(location)
    plan = make_plan(job, check_job(job) if preflight else (), measured=True)
    return replace(plan, stages=describe_stages(chain.stages, chain.request.recipe, finished=finished))


def _location(chain: Chain, stage: Stage, *, fresh: bool) -> RunLocation:
    """The location of a stage; a directory that will be deleted is not read."""
    if fresh:
        return RunLocation(stage.path, stage.request)
    return find_location("distill", stage.request)


def _record(result: RunResult | FinishedRun) -> dict[str, Any]:
    """The record of an earlier stage in the summary of the last one."""
    document = result.to_json()
    test = document["test"] or {}
    names = ("run", "model", "parameters")
    return {**{name: document[name] for name in names}, "accuracy": test.get("accuracy")}
