"""Several distillations one after another: the teacher teaches an assistant, the assistant the student.

Mirzadeh et al. 2020, "Improved Knowledge Distillation via Teacher Assistant", arXiv:1902.03393.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.errors import Interrupted, StorageError, UsageError
from kdcli.events import Note, Planned
from kdcli.jobs.job import recipe_text, resolved_recipe
from kdcli.jobs.stages import Stage, check_stages, describe_stages, resolve_stages, stages_of
from kdcli.recipe.gates import Gate
from kdcli.recipe.reader import read_recipe
from kdcli.runs import writer
from kdcli.runs.directory import ENVIRONMENT_FILE, RECIPE_FILE, STAGES_FOLDER, SUMMARY_FILE, Run
from kdcli.runs.results import FinishedRun, Plan, RunResult, relativize_path
from kdcli.setup.context import Context
from kdcli.setup.request import Request
from kdcli.setup.run_location import (
    RunLocation,
    find_directory,
    find_location,
    input_paths,
    refuse_other_settings,
    replace_sources,
)


@dataclass(frozen=True)
class Chain:
    """Distillations of which each teaches the next one.

    Args:
        path: the directory of the whole, which is the run of the last stage.
        asked: what to do.
        stages: in order.
        resume, overwrite: what to do with what lies there.
    """

    path: Path
    request: Request
    stages: tuple[Stage, ...]
    resume: bool
    overwrite: bool

    @property
    def recipe(self) -> Path:
        """The recipe with all stages, and with what was given beside it."""
        return self.path / STAGES_FOLDER / RECIPE_FILE

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.resume and (self.path / SUMMARY_FILE).exists()

    def open(self) -> None:
        """Make or empty the directory and leave the recipe in it, so that `--resume` finds a chain.

        Raises:
            UsageError: it holds what nobody may delete.
            StorageError: it cannot be written, or another process works in it.
        """
        inputs = input_paths(self.request.recipe)
        run = Run.open(self.path, resume=self.resume, overwrite=self.overwrite, inputs=inputs)
        try:
            if not self.recipe.exists():
                writer.make_folder(self.recipe.parent)
                writer.write_text(self.recipe, recipe_text(self.request.recipe))
        finally:
            run.close()


def find_chain(request: Request, *, out: str | Path | None, resume: bool, overwrite: bool) -> Chain | None:
    """The chain that is asked for, or that lies there; None where there is one distillation only.

    Raises:
        UsageError: the directory is in the way, holds something else, or a stage lacks something.
    """
    kept = Path(out) / STAGES_FOLDER / RECIPE_FILE if out is not None and resume else None
    if kept is not None and kept.is_file():
        request = _going_on(request, kept)
    if not request.recipe.stages:
        return None
    request = _whole(request)
    if request.recipe.train.devices == "workers":
        raise UsageError(
            "train.devices: workers share one training; a recipe with stages has several",
            hint="kd distill for each stage, with the run before as --teacher",
        )
    path = find_directory("distill", request, out=out, resume=resume, overwrite=overwrite)
    if resume and (path / ENVIRONMENT_FILE).exists() and not (path / STAGES_FOLDER / RECIPE_FILE).exists():
        raise UsageError(f"{path} holds a run without stages", hint="another --out, or --overwrite")
    stages = stages_of(request, path)
    check_stages(stages)
    return Chain(path, request, stages, resume, overwrite)


def _going_on(request: Request, kept: Path) -> Request:
    """What is asked of a chain that lies there: its own recipe where none is given."""
    if (kept.parents[1] / SUMMARY_FILE).exists():
        # A chain that is finished is shown without the user's own files.
        request = replace(request, custom=replace(request.custom, keep_unknown=True))
    recipe = read_recipe(kept, custom=request.custom).recipe
    requested = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    if not request.recipe_given:
        refuse_other_settings(request, requested, kept.parents[1])
        request = replace(request, recipe=replace_sources(recipe, request), recipe_given=True)
    # An option may be what the recipe says, and yet not what a stage says.
    refuse_other_settings(_whole(request), requested, kept.parents[1])
    return request


def _whole(request: Request) -> Request:
    """What is asked, with a recipe that says by itself what was given beside it."""
    request = resolve_stages(request)
    return replace(request, recipe=resolved_recipe(request.recipe, {}, request.custom))


def run_chain(
    chain: Chain,
    context: Context,
    *,
    preflight: bool,
    gates: Sequence[Gate] = (),
    aloud: bool = True,
) -> RunResult | FinishedRun:
    """Train what is not finished, stage by stage; gives the last one.

    Args:
        chain: from `find_chain`.
        around: threads, stop, listener, and what is opened once.
        preflight: refuse what cannot work, before each stage.
        gates: for the last stage.
        aloud: whether the plan of each stage is told.

    Raises:
        Interrupted: `stop` said so; the same command with `--resume` goes on in the stage that it was in.
        StorageError: a stage of a finished chain is gone.
        KdError: everything that can go wrong in a distillation.
    """
    from kdcli.jobs.build import build_distillation
    from kdcli.jobs.execute import execute
    from kdcli.jobs.plan import make_plan
    from kdcli.jobs.preflight import check_job
    from kdcli.jobs.training_findings import training_findings

    done: list[RunResult | FinishedRun] = []
    opened = chain.resume and chain.recipe.exists()
    for stage in chain.stages:
        location = _place(chain, stage, context, fresh=not (opened or chain.resume))
        if location.finished is not None:
            done.append(location.finished)
            continue
        if chain.is_finished:
            raise StorageError(
                f"{chain.path} is finished, but its stage {stage.number} ({stage.path}) is not there",
                hint="start anew: --overwrite",
            )
        context.on_event(Note(f"stage {stage.number} of {stage.count}: {relativize_path(stage.path)}"))
        try:
            job = build_distillation(location, context)
            # What the last one cannot be held to is refused before the first one is trained.
            job.set_gates(gates, is_last=stage.is_last)
            if stage.is_last:
                job.stages = tuple(_record(result) for result in done)
            else:
                job.gates = job.exported_gates = ()
            findings = check_job(job) if preflight else ()
            if aloud:
                context.on_event(Planned(make_plan(job, findings, measured=False)))
            else:
                for finding in (*training_findings(job), *findings):
                    context.on_event(Note(f"stage {stage.number}: {finding}"))
            if not opened:
                chain.open()
                opened = True
            done.append(execute(job, location))
        except Interrupted as interrupted:
            interrupted.run = chain.path if opened else None
            raise
    return done[-1]


def plan_chain(chain: Chain, context: Context, *, preflight: bool) -> Plan:
    """The plan of the first stage that is not finished, with the list of all of them; writes nothing."""
    from kdcli.jobs.build import build_distillation
    from kdcli.jobs.plan import make_plan
    from kdcli.jobs.preflight import check_job

    finished = 0
    for stage in chain.stages:
        location = _place(chain, stage, context, fresh=not chain.resume)
        if location.finished is None:
            break
        finished += 1
    job = build_distillation(location, context)
    plan = make_plan(job, check_job(job) if preflight else (), measured=True)
    return replace(plan, stages=describe_stages(chain.stages, chain.request.recipe, finished=finished))


def _place(chain: Chain, stage: Stage, context: Context, *, fresh: bool) -> RunLocation:
    """Where a stage goes; what lies there is not looked at where it is going to be deleted."""
    if fresh:
        return RunLocation(stage.path, stage.request, resume=True, overwrite=False)
    return find_location("distill", stage.request, out=stage.path, resume=True, overwrite=False, memo=context.memo)


def _record(result: RunResult | FinishedRun) -> dict[str, Any]:
    """What the summary of the last stage says of an assistant."""
    document = result.to_json()
    test = document["test"] or {}
    names = ("run", "model", "parameters")
    return {**{name: document[name] for name in names}, "accuracy": test.get("accuracy")}
