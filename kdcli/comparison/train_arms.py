"""Training every arm of a comparison with every seed; what is finished already is taken as it is."""

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

# How long to wait before asking again for a run that another process works in.
WAIT_SECONDS = 2.0

Runs = dict[str, dict[int, RunResult | FinishedRun]]


class ArmTraining:
    """The runs of a comparison.

    Args:
        out: the comparison's directory; a run lies in `<arm>/seed-<k>`.
        around: threads, stop, listener, and what is opened once.
        preflight: refuse what cannot work, with the first seed of each arm.
    """

    def __init__(self, out: Path, context: Context, *, preflight: bool) -> None:
        self.out = out
        self.context = context
        self.preflight = preflight
        self.finished: Runs = {}
        self.failed: dict[str, KdError] = {}
        self.trained = 0
        self._checked: set[str] = set()

    def run(self, arms: Sequence[Arm]) -> None:
        """Train what is not finished; a run that another process works in is waited for.

        Raises:
            Interrupted: `stop` said so; the same command with `--resume` goes on.
            UsageError: what an arm asks for cannot be.
            KdError: of the first arm that failed, when no pair is whole.
        """
        self.finished = {arm.name: dict(arm.finished) for arm in arms}
        seeds = sorted({seed for arm in arms for seed in arm.seeds})
        # Who is distilled comes first: what cannot work is refused before a twin has been trained for it.
        ordered = sorted(arms, key=lambda arm: arm.baseline is None)
        todo = [(arm, seed) for seed in seeds for arm in ordered if seed in arm.seeds and seed not in arm.finished]
        waiting, asked_in_vain = deque(enumerate(todo, 1)), 0
        while waiting:
            number, (arm, seed) = waiting.popleft()
            if arm.name in self.failed or arm.baseline in self.failed or self._for_nobody(arm, arms):
                continue
            try:
                self._one(arm, seed, f"{number} of {len(todo)}")
                asked_in_vain = 0
            except LockedError:
                waiting.append((number, (arm, seed)))
                asked_in_vain += 1
                self._wait(everything=asked_in_vain > len(waiting))
            except Interrupted as interrupted:
                interrupted.run = self.out
                raise
            except UsageError:
                # What is asked for cannot be: nobody wants the other arms first.
                raise
            except KdError as error:
                self.failed[arm.name] = error
                self.context.on_event(Note(f"{arm.name}, seed {seed} failed: {error.message}", warning=True))
        pairs = [(arm.name, arm.baseline) for arm in arms if arm.baseline is not None]
        if self.failed and not any(set(self.finished[one]) & set(self.finished[other]) for one, other in pairs):
            raise next(iter(self.failed.values()))

    def _for_nobody(self, arm: Arm, arms: Sequence[Arm]) -> bool:
        """Whether every arm that has this one as its twin has failed."""
        served = [other.name for other in arms if other.baseline == arm.name]
        return bool(served) and all(name in self.failed for name in served)

    def _one(self, arm: Arm, seed: int, count: str) -> None:
        alone = arm.baseline is None
        path = self.out / arm.folder / f"seed-{seed}"
        request = arm.at(seed, path)
        if request.recipe.stages:
            self._chain(arm, seed, request, count)
            return
        location = find_location("scratch" if alone else "distill", request)
        if location.finished is not None:
            self.finished[arm.name][seed] = location.finished
            return
        self.context.on_event(Note(f"run {count}: {arm.name}, seed {seed}"))
        job = build_label_training("student", location) if alone else build_distillation(location)
        if self.preflight and arm.name not in self._checked:
            for finding in (*training_findings(job), *check_job(job)):
                self.context.on_event(Note(f"{arm.name}: {finding}"))
        self._checked.add(arm.name)
        self.finished[arm.name][seed] = execute(job, location)
        self.trained += 1

    def _chain(self, arm: Arm, seed: int, request: Request, count: str) -> None:
        """All stages of one seed."""
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

    def _wait(self, *, everything: bool) -> None:
        """Let another process go on; only sleep when every run that is left is being worked on."""
        code = self.context.stop()
        if code is not None:
            raise Interrupted("stopped while waiting for another process", exit_code=code, run=self.out)
        if everything:
            time.sleep(WAIT_SECONDS)
