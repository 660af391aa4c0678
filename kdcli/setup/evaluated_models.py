"""Models to be measured: opened from any file format, evaluated on a split, timed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.errors import UsageError
from kdcli.evaluation.footprint import count_flops
from kdcli.evaluation.latency.command import time_by_command
from kdcli.evaluation.latency.measure import time_at_batches
from kdcli.evaluation.latency.session_statistics import Session
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES, SubjectFactory, make_network_factory
from kdcli.evaluation.quality import evaluate_split
from kdcli.events import OnEvent
from kdcli.lazy import tf
from kdcli.models.files.format import KERAS_FORMATS, SAVED_MODEL, resolve_model_file
from kdcli.models.files.open import open_file
from kdcli.models.network import Network
from kdcli.models.runtimes.child_process import RUNTIME_OF_FORMAT as FILE_RUNTIMES
from kdcli.models.runtimes.network import RunnerNetwork, find_failure
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs.directory import find_run_recipe, find_run_role
from kdcli.runs.results import Quality
from kdcli.setup.fit_to_data import check_target_scale, fit_to_data
from kdcli.setup.open_models import apply_exported_settings, apply_recorded_settings, choice_of
from kdcli.setup.quantized_student import add_written_ranges
from kdcli.setup.request import Request
from kdcli.setup.teacher_file import TeacherFile

RUNTIMES = {**dict.fromkeys((*KERAS_FORMATS, SAVED_MODEL), "tensorflow"), **FILE_RUNTIMES}
# The approximate time for which each model is timed.
SECONDS_EACH = 3.0
TEACHER, AGAIN = "--teacher", "the first model again"


@dataclass(frozen=True, kw_only=True)
class EvaluatedFile:
    """An opened model, ready to be measured.

    Args:
        path: of its file.
        format: as `kdcli.models.files.format.detect_format` names it.
        network: behind its preprocessing.
        sha256: hash of the opened file.
        findings: of the screening.
    """

    path: Path
    format: str
    network: Network
    sha256: str
    findings: tuple[str, ...] = ()

    @property
    def flops(self) -> int | None:
        """Number of FLOPs for one example; None if they cannot be counted."""
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
        """Measure the quality on a split.

        Args:
            examples: the split.
            task: of the data.
            on_event: receives progress.
            batch_size: examples per batch.
            teacher: (examples, outputs), the teacher's logits, for the agreement.

        Returns:
            The quality and the logits.

        Raises:
            ModelError: the file's runtime process died.
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
        """Return the factory of timed subjects, on raw examples."""
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
    rebuild: bool = False,
) -> EvaluatedFile:
    """Open a model behind its preprocessing: that of its run, or for a file that of the recipe.

    Args:
        given: a file or a run.
        role: `teacher` or `student`: the section of the recipe that applies to a file.
        request: has the recipe and the trust settings.
        dataset: the data that the model is fitted to.
        threads: number of threads of the runtime of a `.tflite` or `.onnx` file.
        opened: closes that runtime.
        on_event: receives notes.
        rebuild: whether a Keras 2 file that opens as a graph is rebuilt with the layers of Keras 3.

    Raises:
        ModelError: the file is missing or unreadable, or does not fit the data.
    """
    path = resolve_model_file(given, trust=request.trust)
    section = getattr(request.recipe, role)
    run_recipe = find_run_recipe(given)
    if run_recipe is not None:
        section = apply_recorded_settings(section, getattr(read_run_recipe(run_recipe), find_run_role(given)))
    part, trust = choice_of(section, role), request.trust
    file = open_file(path, trust=trust, part=part, threads=threads, rebuild=rebuild, on_event=on_event)
    network: Network = file.network
    if isinstance(network, RunnerNetwork):
        opened.callback(network.close)
    section = apply_exported_settings(
        path, section, network, role=role, is_for_file=run_recipe is None, on_event=on_event
    )
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
        # A model that is evaluated is named by its file, although its settings are those of a student.
        who=network.name if role == "student" else None,
    )
    check_target_scale(network, dataset, role=role, measured=True, on_event=on_event)
    network = add_written_ranges(network, path)
    findings = tuple(str(finding) for finding in file.verdict.findings)
    return EvaluatedFile(path=path, format=file.format, network=network, sha256=file.sha256, findings=findings)


def time_files(
    candidates: Mapping[str, EvaluatedFile],
    examples: Examples,
    *,
    teachers: Mapping[str, TeacherFile],
    seed: int,
    runtime: str | None,
    latency_command: str | None,
    on_event: OnEvent,
) -> Session:
    """Time models in turns, the first one twice: its ratio to itself is the noise floor.

    Args:
        candidates: the models by name.
        examples: the split from which inputs are taken.
        teachers: the teacher exported for other runtimes, by name.
        seed: RNG seed for the order of the turns.
        runtime: time only the models of this runtime; all when None.
        latency_command: measures the files in the place of this machine.
        on_event: receives progress.

    Raises:
        UsageError: no model uses that runtime.
    """
    timed = {name: one for name, one in candidates.items() if runtime in (None, RUNTIMES[one.format])}
    if not timed:
        raise UsageError(
            f"--runtime {runtime}: none of the given models uses this runtime", hint="remove --runtime"
        )
    if latency_command is not None:
        files = {name: one.path for name, one in timed.items()}
        files |= {name: one.path for name, one in teachers.items()}
        return time_by_command(latency_command, {**files, AGAIN: next(iter(files.values()))})
    raw = examples.take(np.arange(min(POOL_EXAMPLES, len(examples))))
    entrants = {name: one.at_batch(raw) for name, one in timed.items()}
    entrants |= {name: one.at_batch(raw) for name, one in teachers.items()}
    entrants[AGAIN] = _repeat(entrants, next(iter(entrants)))
    return time_at_batches(entrants, seed=seed, seconds=SECONDS_EACH * len(entrants), on_event=on_event)


def _repeat(entrants: dict[str, SubjectFactory], first: str) -> SubjectFactory:
    """Let two entrants share the subjects of the first one; return the factory of the second."""
    entrants[first] = cache(entrants[first])
    return entrants[first]


def check_runtime(runtime: str | None, formats: Sequence[str], *, latency: bool) -> None:
    """Refuse a runtime that would have no effect.

    Raises:
        UsageError: no model uses it, or nothing is timed.
    """
    if runtime is None:
        return
    if not latency:
        raise UsageError("--runtime selects which models are timed, but no model is timed", hint="add --latency")
    known = sorted({RUNTIMES[form] for form in formats if form in RUNTIMES})
    if runtime not in known:
        raise UsageError(
            f"--runtime {runtime}: none of the given models uses this runtime (known: {', '.join(known)})"
        )
