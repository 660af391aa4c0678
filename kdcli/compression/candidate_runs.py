"""The runs of a search: each candidate is one run, which every rung continues where the last one paused."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.compression.candidates import Candidate
from kdcli.compression.quantize_request import QUANTIZE, make_quantize_recipe
from kdcli.compression.schedule import SearchSchedule, count_larger_epochs
from kdcli.compression.subject import SearchSubject
from kdcli.errors import Interrupted, KdError, LockedError, ModelError, TrainingError
from kdcli.evaluation.quality import evaluate_split
from kdcli.events import Note, ignore_event
from kdcli.jobs.build import build_distillation
from kdcli.jobs.execute import PausedRun, execute, execute_until
from kdcli.models.keras.model import save_to_bytes
from kdcli.models.network import Network
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs import writer
from kdcli.runs.directory import RECIPE_FILE
from kdcli.runs.search_directory import SearchDirectory
from kdcli.setup.evaluated_models import EvaluatedFile, open_evaluated_file
from kdcli.setup.request import Request
from kdcli.setup.run_location import RunLocation, find_location
from kdcli.setup.shrunk_student import make_batches, require_shrinkable
from kdcli.shrinking.augmentation_layers import remove_augmentation
from kdcli.shrinking.shrink import Shrinker, read_widths
from kdcli.zoo.shrunk import Shrunk

# Seconds between two attempts to open a run that another process is working on.
_WAIT_SECONDS = 1.0


def make_run_request(
    subject: SearchSubject,
    candidate: Candidate,
    out: Path | None,
    *,
    root: Path,
    schedule: SearchSchedule | None = None,
    seed: int | None = None,
) -> Request:
    """The request of a candidate's run.

    Args:
        subject: data and teacher.
        candidate: to train.
        out: the run directory, in which an unfinished run continues; None for a job that is only built.
        root: directory of the search.
        schedule: its length and views; None before they are known.
        seed: of a further repeat; None for the seed of the search.
    """
    request, recipe = subject.request, subject.request.recipe
    train: dict[str, Any] = {"steps": None, "epochs": schedule.epochs if schedule else 1}
    data: dict[str, Any] = {"seed": recipe.data_seed}
    teachers = recipe.teachers
    if seed is not None:
        train["seed"] = seed
    if schedule is not None and schedule.views == 1 and subject.chose_augmentation:
        # A single augmented view is worse than none.
        data["augment"] = ()
    elif schedule is not None and recipe.data.augment and teachers[0].views == "auto":
        teachers = tuple(one.model_copy(update={"views": schedule.views}) for one in teachers)
    update = {
        "student": candidate.make_section(root),
        "train": recipe.train.model_copy(update=train),
        "data": recipe.data.model_copy(update=data),
    }
    recipe = recipe.model_copy(update=update).with_teachers(*teachers, ensemble=recipe.is_ensemble)
    return replace(
        request,
        recipe=recipe,
        name=candidate.name,
        recipe_given=True,
        out=out,
        resume=out is not None,
        overwrite=False,
        gates=(),
    )


class CandidateRuns:
    """Trains candidates to the rungs of a schedule.

    Args:
        subject: data and teacher.
        directory: of the search.
        schedule: the rungs.
    """

    def __init__(self, subject: SearchSubject, directory: SearchDirectory, schedule: SearchSchedule) -> None:
        self.subject, self.directory, self.schedule = subject, directory, schedule
        self.failed: dict[str, str] = {}
        self._context = subject.request.context

    def train(
        self, candidates: Sequence[Candidate], rung: int, *, seed: int | None = None
    ) -> dict[str, np.ndarray]:
        """Train candidates to a rung, or wait for other processes that do.

        Args:
            candidates: those that go on.
            rung: number of the rung, from 1.
            seed: of a further repeat.

        Returns:
            The outputs on the validation split, by candidate; without those that failed.

        Raises:
            Interrupted: a stop was requested; the same command with `--resume` continues.
            ModelError, TrainingError: of the first candidate, if all failed.
            StorageError: a run cannot be written.
        """
        found: dict[str, np.ndarray] = {}
        errors: list[KdError] = []
        waiting, refused = deque(enumerate(candidates, 1)), 0
        while waiting:
            number, candidate = waiting.popleft()
            try:
                found[candidate.name] = self._train_one(candidate, rung, f"{number} of {len(candidates)}", seed)
                refused = 0
            except LockedError:
                waiting.append((number, candidate))
                refused += 1
                self._wait(sleep=refused > len(waiting))
            except (ModelError, TrainingError) as error:
                errors.append(error)
                self.failed[candidate.name] = error.message
                self._context.on_event(Note(f"{candidate.name} failed: {error.message}", warning=True))
        if errors and not found:
            raise errors[0]
        return {candidate.name: found[candidate.name] for candidate in candidates if candidate.name in found}

    def train_to_end(self, candidate: Candidate, *, seed: int | None = None) -> np.ndarray:
        """Train one candidate to the end; its outputs on the validation split.

        Raises:
            KdError: as `train`.
        """
        return self.train([candidate], len(self.schedule.rungs), seed=seed)[candidate.name]

    def train_quantized(self, run: Path) -> Network:
        """Train the student of a finished run further, with the rounding of its 8-bit file.

        Raises:
            KdError: as `train`, or its layers cannot be quantized.
        """
        request, base = self.subject.request, read_run_recipe(run / RECIPE_FILE)
        recipe = make_quantize_recipe(base, run, base.student, request.recipe.teachers)
        # The student itself comes first among the teachers.
        models = {_move_role(role): model for role, model in request.models.items()}
        out = self.directory.quantized_run_of(run)
        request = replace(request, recipe=recipe, models=models, out=out, resume=True, overwrite=False, gates=())
        location = find_location(QUANTIZE, request)
        if location.finished is None:
            job = build_distillation(location)
            job.command, job.reads_test = QUANTIZE, False
            execute(job, location)
        return open_finished_run(out, self.subject).network

    def _train_one(self, candidate: Candidate, rung: int, count: str, seed: int | None) -> np.ndarray:
        known = self.directory.read_outputs(candidate.name, rung, seed=seed)
        if known is not None:
            return known
        if candidate.larger is not None and not self.directory.start_of(candidate.name).exists():
            self._shrink_trained(candidate)
        steps, rungs = self.schedule.rungs[rung - 1], len(self.schedule.rungs)
        out = self.directory.run_of(candidate.name, seed=seed)
        request = make_run_request(
            self.subject, candidate, out, root=self.directory.path, schedule=self.schedule, seed=seed
        )
        location = find_location("distill", request)
        if location.finished is None:
            name = candidate.name if seed is None else f"{candidate.name}, seed {seed}"
            self._context.on_event(Note(f"rung {rung} of {rungs}, {count}: {name}, to step {steps:,}"))
        logits = self._run(location, steps)
        outputs = self.subject.metric.reduce(logits)
        self.directory.write_outputs(candidate.name, rung, outputs, seed=seed)
        return outputs

    def _shrink_trained(self, candidate: Candidate) -> None:
        """Train the larger student of a candidate in two steps, and shrink it to the candidate."""
        subject, out = self.subject, self.directory.larger_run_of(candidate.name)
        schedule = replace(self.schedule, epochs=count_larger_epochs(self.schedule.epochs))
        request = make_run_request(
            subject, candidate.make_larger(), out, root=self.directory.path, schedule=schedule
        )
        location = find_location("distill", request)
        if location.finished is None:
            text = f"{candidate.name}: a larger student first, for {schedule.epochs} epochs"
            self._context.on_event(Note(text))
            job = build_distillation(location)
            job.reads_test = False
            execute(job, location)
        network = require_shrinkable(open_finished_run(out, subject).network)
        assert subject.network is not None and candidate.keep is not None
        with self.directory.hold_lock(self._context.stop):
            if self.directory.start_of(candidate.name).exists():
                return
            shrinker = Shrinker(
                network.model,
                Shrunk(),
                batches=make_batches(network, subject.calibration),
                kind=network.saved_kind,
                output=network.output_index,
                seed=request.recipe.data_seed,
                widths=read_widths(remove_augmentation(subject.network.model)),
            )
            model = shrinker.build(candidate.keep).model
            with writer.scratch_folder(3 * 4 * model.count_params() + 10_000_000) as scratch:
                self.directory.write_start(candidate.name, save_to_bytes(model, scratch))

    def _run(self, location: RunLocation, steps: int) -> np.ndarray:
        """Train a run to a step; its outputs on the validation split."""
        if location.finished is None:
            job = build_distillation(location)
            job.reads_test = False
            result = execute_until(job, location, steps)
            if isinstance(result, PausedRun):
                return result.logits
        subject = self.subject
        network = open_finished_run(location.path, subject).network
        _, logits = evaluate_split(
            network, subject.validation, task=subject.dataset.task, on_event=self._context.on_event
        )
        return logits

    def _wait(self, *, sleep: bool) -> None:
        code = self._context.stop()
        if code is not None:
            raise Interrupted("stopped while waiting for another process", exit_code=code)
        if sleep:
            time.sleep(_WAIT_SECONDS)


def _move_role(role: str) -> str:
    """The role of a teacher when another one stands before it."""
    number = int(role.partition(".")[2] or 0) if role.startswith("teacher") else 0
    return f"teacher.{number + 1}" if role.startswith("teacher") else role


def open_finished_run(run: Path, subject: SearchSubject) -> EvaluatedFile:
    """The student of a finished run behind its preprocessing."""
    request = subject.request
    with ExitStack() as resources:
        return open_evaluated_file(
            run,
            "student",
            request=request,
            dataset=subject.dataset,
            threads=request.context.threads,
            opened=resources,
            on_event=ignore_event,
        )
