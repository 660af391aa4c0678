"""Run a distillation from its request: one training, or the stages of a recipe."""

from __future__ import annotations

from kdcli.events import Planned
from kdcli.jobs.build import build_distillation
from kdcli.jobs.execute import execute
from kdcli.jobs.finished_run import choose_run_gates, judge_finished
from kdcli.jobs.plan import make_plan
from kdcli.jobs.preflight import check_job
from kdcli.jobs.run_stages import distill_in_stages
from kdcli.runs.results import FinishedRun, Plan, RunResult
from kdcli.setup.request import Request
from kdcli.setup.run_location import find_location
from kdcli.setup.workers import join_run


def run_distillation(request: Request) -> RunResult | FinishedRun | Plan:
    """Train a student, show a finished run again, or plan it.

    Raises:
        KdError: any expected error.
    """
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
