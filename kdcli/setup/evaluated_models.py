"""Models that are measured beside each other, whatever file they are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.errors import UsageError
from kdcli.evaluation.footprint import count_flops
from kdcli.evaluation.latency.measure import time_at_batches
from kdcli.evaluation.latency.session import Session
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES, SubjectFactory, make_network_factory
from kdcli.evaluation.quality import evaluate_split
from kdcli.events import OnEvent
from kdcli.lazy import tf
from kdcli.models.files.format import KERAS_FORMATS, SAVED_MODEL, resolve_model_file
from kdcli.models.files.open import open_file
from kdcli.models.runtimes.network import RunnerNetwork, find_failure
from kdcli.models.runtimes.runner import RUNTIME_OF_FORMAT as FILE_RUNTIMES
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs.directory import find_run_recipe, find_run_role
from kdcli.runs.results import Quality
from kdcli.setup.exported_file import apply_exported_settings
from kdcli.setup.fit_to_data import fit_to_data
from kdcli.setup.open_models import apply_recorded_settings, choice_of
from kdcli.setup.request import Request
from kdcli.setup.target_scale import check_target_scale
from kdcli.setup.teacher_file import TeacherFile

RUNTIMES = {**dict.fromkeys((*KERAS_FORMATS, SAVED_MODEL), "tensorflow"), **FILE_RUNTIMES}
# About how long models are timed, for each of them.
SECONDS_EACH = 3.0
TEACHER, AGAIN = "--teacher", "the first model again"


@dataclass(frozen=True)
class EvaluatedFile:
    """A model that can be measured.

    Args:
        path: its file.
        format: from `kdcli.models.files.format.model_format`.
        network: behind its preparation.
        sha256: of what was opened.
        findings: what screening said of it.
    """

    path: Path
    format: str
    network: Any
    sha256: str
    findings: tuple[str, ...] = ()

    @property
    def flops(self) -> int | None:
        """Of one answer; None where nothing can be counted."""
        return None if isinstance(self.network, RunnerNetwork) else count_flops(self.network)

    def measure(
        self,
        examples: Examples,
        *,
        task: str,
        on_event: OnEvent,
        batch_size: int,
        teacher: np.ndarray | None = None,
    ) -> tuple[Quality, np.ndarray]:
        """The quality on a split, and the logits.

        Raises:
            ModelError: a `.tflite` file that crashed its runtime.
        """
        try:
            return evaluate_split(
                self.network, examples, task=task, on_event=on_event, teacher=teacher, batch_size=batch_size
            )
        except tf.errors.OpError as error:
            if isinstance(self.network, RunnerNetwork):
                raise find_failure(self.network, error) from error
            raise

    def at_batch(self, raw: Mapping[str, np.ndarray]) -> SubjectFactory:
        """How it is timed, on raw examples."""
        return make_network_factory(self.network, raw)


def open_evaluated_file(
    given: Path,
    role: str,
    *,
    request: Request,
    dataset: Dataset,
    threads: int | None,
    opened: ExitStack,
    on_event: OnEvent,
) -> EvaluatedFile:
    """Open a model behind its preparation: a run brings its own, a file takes the recipe's.

    Args:
        role: `teacher` or `student`, whose section of the recipe a file takes.
        threads: of a reader of `.tflite` files.
        opened: closes the readers.

    Raises:
        ModelError: missing, unreadable, or it does not fit the data.
    """
    path = resolve_model_file(given, trust=request.trust)
    section = getattr(request.recipe, role)
    own = find_run_recipe(given)
    if own is not None:
        section = apply_recorded_settings(section, getattr(read_run_recipe(own), find_run_role(given)))
    file = open_file(path, trust=request.trust, part=choice_of(section, role), threads=threads, on_event=on_event)
    network, runs_alone = file.network, isinstance(file.network, RunnerNetwork)
    if runs_alone:
        opened.callback(network.close)
    section = apply_exported_settings(path, section, network, role=role, asked_for=own is None, on_event=on_event)
    network = fit_to_data(
        network,
        dataset.train,
        task=dataset.task,
        outputs=dataset.outputs,
        section=section,
        role=role,
        measured=True,
        seed=request.recipe.data_seed,
        on_event=on_event,
        class_names=dataset.class_names,
        # Models on their own are known by their files; settings for them are those of a student.
        who=network.name if role == "student" else None,
    )
    check_target_scale(network, dataset, role=role, measured=True, on_event=on_event)
    findings = tuple(str(finding) for finding in file.verdict.findings)
    return EvaluatedFile(path, file.format, network, file.sha256, findings)


def time_files(
    candidates: Mapping[str, EvaluatedFile],
    examples: Examples,
    *,
    teachers: Mapping[str, TeacherFile],
    seed: int,
    runtime: str | None,
    on_event: OnEvent,
) -> Session:
    """Time models in turns, the first of them twice: the ratio to itself is the noise floor.

    Args:
        teachers: the teacher as files of other runtimes, by name.
        runtime: time only models of this one.

    Raises:
        UsageError: no model is of that runtime.
    """
    timed = {name: one for name, one in candidates.items() if runtime in (None, RUNTIMES[one.format])}
    if not timed:
        raise UsageError(f"--runtime {runtime}: no model is run by it", hint="leave --runtime out")
    raw = examples.take(np.arange(min(POOL_EXAMPLES, len(examples))))
    entrants = {name: one.at_batch(raw) for name, one in timed.items()}
    entrants |= {name: one.at_batch(raw) for name, one in teachers.items()}
    entrants[AGAIN] = _same(entrants, next(iter(entrants)))
    return time_at_batches(entrants, seed=seed, seconds=SECONDS_EACH * len(entrants), on_event=on_event)


def _same(entrants: dict[str, SubjectFactory], first: str) -> SubjectFactory:
    """The first entrant under a second name, with the very same subject."""
    at, made = entrants[first], {}

    def memo(batch: int) -> Any:
        if batch not in made:
            made[batch] = at(batch)
        return made[batch]

    entrants[first] = memo
    return memo


def check_runtime(runtime: str | None, formats: Sequence[str], *, latency: bool) -> None:
    """Refuse a runtime that would have no effect.

    Raises:
        UsageError: unknown, of no model, or nothing is timed.
    """
    if runtime is None:
        return
    if not latency:
        raise UsageError("--runtime says which models are timed", hint="--latency times them")
    known = sorted({RUNTIMES[form] for form in formats if form in RUNTIMES})
    if runtime not in known:
        raise UsageError(f"--runtime {runtime}: no model is run by it; there is {', '.join(known)}")
