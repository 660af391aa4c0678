"""The teacher in the runtime of each timed model, so that latency ratios compare the same runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from kdcli.artifacts.converted_file import ConvertedFile
from kdcli.artifacts.export_source import require_exportable
from kdcli.errors import KdError, ModelError
from kdcli.events import OnEvent
from kdcli.exports import Litert, Onnx
from kdcli.exports.format_choice import choose_formats
from kdcli.setup.evaluated_models import RUNTIMES, TEACHER, EvaluatedFile
from kdcli.setup.teacher_file import TeacherFile, open_teacher_file
from kdcli.spec import ExportFormat
from kdcli.teacher.run_teacher import RunTeacher

# The format in which a teacher runs in each runtime.
_FORMATS: dict[str, ExportFormat] = {"litert": Litert(), "onnxruntime": Onnx()}


@dataclass(frozen=True)
class Counterparts:
    """The teacher in the runtime of each timed model.

    Args:
        files: the teacher's exported files, by the name under which they are timed.
        names: name of the counterpart, by model.
        reasons: why there is no counterpart, by model.
    """

    files: Mapping[str, TeacherFile] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


def find_counterparts(
    candidates: Mapping[str, EvaluatedFile],
    *,
    runtime: str | None,
    threads: int | None,
    resources: ExitStack,
    on_event: OnEvent,
) -> Counterparts:
    """Find or export the teacher in the runtime of every model that will be timed.

    Args:
        candidates: the models by name, the teacher under `TEACHER`.
        runtime: time only models of this runtime; None for all.
        threads: number of threads other runtimes use.
        resources: closes the opened files.
        on_event: receives notes on exports.
    """
    teacher = candidates.get(TEACHER)
    if teacher is None:
        return Counterparts()
    needed, names = {}, {}
    for name, candidate in candidates.items():
        own = RUNTIMES[candidate.format]
        if name == TEACHER or runtime not in (None, own):
            continue
        if own == RUNTIMES[teacher.format]:
            names[name] = TEACHER
            continue
        # A file that takes raw examples is compared with a teacher's file that takes them too.
        preprocessing = candidate.network.preprocessing.values()
        inside = all(one.size is None and (one.scale == "raw" or not one.is_scaled) for one in preprocessing)
        needed[name] = (own, inside)

    def open_in(runtime: str, inside: bool) -> TeacherFile:
        if runtime not in _FORMATS:
            raise ModelError(f"{teacher.path} is a {teacher.format} file")
        return open_teacher_file(
            require_exportable(teacher.network),
            _FORMATS[runtime],
            inside=inside,
            sha256=teacher.sha256,
            threads=threads,
            opened=resources,
            on_event=on_event,
        )

    found = _open_once(needed, open_in)
    return Counterparts(found.files, {**names, **found.names}, found.reasons)


def export_counterparts(
    files: Sequence[ConvertedFile],
    teacher: RunTeacher,
    *,
    threads: int | None,
    resources: ExitStack,
    on_event: OnEvent,
) -> Counterparts:
    """Export the teacher of a run to each format of its student's files.

    Args:
        files: the student's files.
        teacher: the teacher of the run.
        threads: number of threads other runtimes use.
        resources: closes the opened files.
        on_event: receives notes on exports.
    """

    def open_as(kind: str, inside: bool) -> TeacherFile:
        network, sha256 = teacher.only()
        return open_teacher_file(
            require_exportable(network),
            choose_formats([kind])[0],
            inside=inside,
            sha256=sha256,
            threads=threads,
            opened=resources,
            on_event=on_event,
        )

    return _open_once({made.path.name: (made.format.kind, made.serving.inside) for made in files}, open_as)


def _open_once(
    needed: Mapping[str, tuple[str, bool]], open_teacher: Callable[[str, bool], TeacherFile]
) -> Counterparts:
    """Open each form of the teacher once, for all models that need it.

    Args:
        needed: runtime or format, and whether the preprocessing is inside, by model.
        open_teacher: opens the teacher in that form.
    """
    files: dict[str, TeacherFile] = {}
    failures: dict[str, str] = {}
    names, reasons = {}, {}
    for model, (form, inside) in needed.items():
        name = f"the teacher in {form}" + ("" if inside else ", preprocessing outside")
        if name not in {**files, **failures}:
            try:
                files[name] = open_teacher(form, inside)
            except KdError as error:
                failures[name] = error.message
        if name in files:
            names[model] = name
        else:
            reasons[model] = f"the teacher cannot be timed in {form}: {failures[name]}"
    return Counterparts(files, names, reasons)
