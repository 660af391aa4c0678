"""Train every arm of a comparison with every seed, except for finished runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from kdcli.comparison.arms import Arm
from kdcli.errors import Interrupted, KdError, LockedError, UsageError
from kdcli.events import Note
from kdcli.jobs.build import build_distillation, build_label_training
from kdcli.jobs.execute import execute
from kdcli.jobs.job import Job
from kdcli.jobs.preflight import check_job
from kdcli.jobs.run_stages import find_chain, run_chain
from kdcli.jobs.stages import Stage
from kdcli.jobs.training_findings import training_findings
from kdcli.runs.results import FinishedRun, RunResult
from kdcli.setup.context import Context
from kdcli.setup.request import Request
from kdcli.setup.run_location import find_location

# Seconds between two attempts to open a run that another process is working on.
WAIT_SECONDS = 2.0


class ArmTraining:
    """Trains the arms of a comparison.

    Args:
        out: the comparison directory; the runs are in `<arm>/seed-<k>`.
        context: threads, stop request, event listener, and values that are computed once.
        preflight: whether to check the first run of each arm before training it.
    """

    def __init__(self, out: Path, context: Context, *, preflight: bool) -> None:
        self.out = out
        self.context = context
        self.preflight = preflight
        self.finished: dict[str, dict[int, RunResult | FinishedRun]] = {}
        self.failed: dict[str, KdError] = {}
        self.trained = 0
        self._checked: set[str] = set()

    def run(self, arms: Sequence[Arm]) -> None:
        """Train all runs that are not finished, and wait for those that other processes are working on.

        Raises:
            Interrupted: a stop was requested; the same command with `--resume` continues.
            UsageError: the settings of an arm are not possible.
            KdError: the error of the first failed arm, if no pair of runs is finished.
        """
        self.finished = {arm.name: dict(arm.finished) for arm in arms}
        seeds = sorted({seed for arm in arms for seed in arm.seeds})
        # Distilled arms come first, so that impossible settings are refused before their baseline is trained.
        ordered = sorted(arms, key=lambda arm: arm.baseline is None)
        todo = [(arm, seed) for seed in seeds for arm in ordered if seed in arm.seeds and seed not in arm.finished]
        waiting, failed_attempts = deque(enumerate(todo, 1)), 0
        while waiting:
            number, (arm, seed) = waiting.popleft()
            if arm.name in self.failed or arm.baseline in self.failed or self._is_needless(arm, arms):
                continue
            try:
                self._train(arm, seed, f"{number} of {len(todo)}")
                failed_attempts = 0
            except LockedError:
                waiting.append((number, (arm, seed)))
                failed_attempts += 1
                self._wait(sleep=failed_attempts > len(waiting))
            except Interrupted as interrupted:
                interrupted.run = self.out
                raise
            except UsageError:
                # A mistake in the request is reported before the other arms are trained.
                raise
            except KdError as error:
                self.failed[arm.name] = error
                self.context.on_event(Note(f"{arm.name}, seed {seed} failed: {error.message}", warning=True))
        pairs = [(arm.name, arm.baseline) for arm in arms if arm.baseline is not None]
        if self.failed and not any(set(self.finished[one]) & set(self.finished[other]) for one, other in pairs):
            raise next(iter(self.failed.values()))

    def _is_needless(self, arm: Arm, arms: Sequence[Arm]) -> bool:
        """Whether this is a baseline of failed arms only."""
        distilled = [other.name for other in arms if other.baseline == arm.name]
        return bool(distilled) and all(name in self.failed for name in distilled)

    def _train(self, arm: Arm, seed: int, count: str) -> None:
        is_baseline = arm.baseline is None
        path = self.out / arm.folder / f"seed-{seed}"
        request = arm.at(seed, path)
        if request.recipe.stages:
            self._train_stages(arm, seed, request, count)
            return
        location = find_location("scratch" if is_baseline else "distill", request)
        if location.finished is not None:
            self.finished[arm.name][seed] = location.finished
            return
        self.context.on_event(Note(f"run {count}: {arm.name}, seed {seed}"))
        job = build_label_training("student", location) if is_baseline else build_distillation(location)
        if self.preflight and arm.name not in self._checked:
            for finding in (*training_findings(job), *check_job(job)):
                self.context.on_event(Note(f"{arm.name}: {finding}"))
        self._checked.add(arm.name)
        self.finished[arm.name][seed] = execute(job, location)
        self.trained += 1

    def _train_stages(self, arm: Arm, seed: int, request: Request, count: str) -> None:
        chain = find_chain(request)
        assert chain is not None

        def announce(stage: Stage, job: Job, findings: tuple[str, ...]) -> None:
            for finding in (*training_findings(job), *findings):
                self.context.on_event(Note(f"stage {stage.number}: {finding}"))

        if not chain.is_finished:
            self.context.on_event(Note(f"run {count}: {arm.name}, seed {seed}, in {len(chain.stages)} stages"))
            self.trained += 1
        preflight = self.preflight and arm.name not in self._checked
        self.finished[arm.name][seed] = run_chain(chain, announce=announce, preflight=preflight)
        self._checked.add(arm.name)

    def _wait(self, *, sleep: bool) -> None:
        """Check for a stop request; sleep if other processes are working on all remaining runs."""
        code = self.context.stop()
        if code is not None:
            raise Interrupted("stopped while waiting for another process", exit_code=code, run=self.out)
        if sleep:
            time.sleep(WAIT_SECONDS)
