"""What a model's latency is compared with: the teacher in the same runtime, never in another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from kdcli.artifacts.files import ConvertedFile
from kdcli.artifacts.source import require_exportable
from kdcli.errors import KdError, ModelError
from kdcli.events import OnEvent
from kdcli.exports import Litert, Onnx
from kdcli.exports.format_choice import choose_formats
from kdcli.setup.evaluated_models import RUNTIMES, TEACHER, EvaluatedFile
from kdcli.setup.teacher_file import TeacherFile, open_teacher_file
from kdcli.spec import ExportFormat
from kdcli.teacher.run_teacher import RunTeacher

# What a teacher is exported as to run there.
_FORMATS: dict[str, ExportFormat] = {"litert": Litert(), "onnxruntime": Onnx()}


@dataclass(frozen=True)
class Counterparts:
    """What the latency of each model is compared with: the teacher in the model's own runtime.

    Args:
        files: the teacher as files that were exported for it, by the name under which they are timed.
        names: the name of its counterpart, by model.
        reasons: why there is none, by model.
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
    """The teacher in the runtime of every candidate that is going to be timed.

    Args:
        candidates: by name, the teacher under `TEACHER`.
        runtime: time only models of this one.
        threads: of other runtimes.
        resources: closes what is opened here.
        on_event: told of exports.
    """
    teacher = candidates.get(TEACHER)
    if teacher is None:
        return Counterparts()
    wanted, names = {}, {}
    for name, candidate in candidates.items():
        other = RUNTIMES[candidate.format]
        if name == TEACHER or runtime not in (None, other):
            continue
        if other == RUNTIMES[teacher.format]:
            names[name] = TEACHER
            continue
        # A file that takes raw examples is compared with one that takes them too.
        preparations = candidate.network.preprocessing.values()
        inside = all(one.size is None and (one.scale == "raw" or not one.is_scaled) for one in preparations)
        wanted[name] = (other, inside)

    def open_in(runtime: str, inside: bool) -> TeacherFile:
        if runtime not in _FORMATS:
            raise ModelError(f"{teacher.path} is a {teacher.format} file")
        options: dict[str, Any] = {"inside": inside, "sha256": teacher.sha256, "threads": threads}
        return open_teacher_file(
            require_exportable(teacher.network), _FORMATS[runtime], **options, opened=resources, on_event=on_event
        )

    found = _each_once(wanted, open_in)
    return Counterparts(found.files, {**names, **found.names}, found.reasons)


def export_counterparts(
    files: Sequence[ConvertedFile],
    teacher: RunTeacher,
    *,
    threads: int | None,
    resources: ExitStack,
    on_event: OnEvent,
) -> Counterparts:
    """The teacher of a run as a file of each format that its student was exported to."""

    def open_as(kind: str, inside: bool) -> TeacherFile:
        network, sha256 = teacher.only()
        options: dict[str, Any] = {"inside": inside, "sha256": sha256, "threads": threads}
        options |= {"opened": resources, "on_event": on_event}
        return open_teacher_file(require_exportable(network), choose_formats([kind])[0], **options)

    return _each_once({made.path.name: (made.format.kind, made.serving.inside) for made in files}, open_as)


def _each_once(
    wanted: Mapping[str, tuple[str, bool]], open_teacher: Callable[[str, bool], TeacherFile]
) -> Counterparts:
    """Open each form of the teacher that some model needs.

    Args:
        wanted: runtime or format, and whether the preprocessing is inside, by model.
        open_teacher: opens one of them.
    """
    files: dict[str, TeacherFile] = {}
    failed: dict[str, str] = {}
    names, reasons = {}, {}
    for model, (form, inside) in wanted.items():
        called = f"the teacher in {form}" + ("" if inside else ", preprocessing outside")
        if called not in {**files, **failed}:
            try:
                files[called] = open_teacher(form, inside)
            except KdError as error:
                failed[called] = error.message
        if called in files:
            names[model] = called
        else:
            reasons[model] = f"the teacher cannot be timed in {form}: {failed[called]}"
    return Counterparts(files, names, reasons)
