"""Export a model: convert it, compare and time the files, and copy those that pass."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from kdcli.artifacts.checks import check_empty, check_without_data
from kdcli.artifacts.conversion import Conversion
from kdcli.artifacts.converted_file import (
    PARITY_METRICS,
    ConvertedFile,
    add_parity_gates,
    collect_gate_metrics,
    convert_file,
    describe_input,
    find_p50_ms,
    time_converted_files,
)
from kdcli.artifacts.counterparts import Counterparts, export_counterparts
from kdcli.artifacts.export_source import ExportSource, open_source_with_data, open_source_without_data
from kdcli.artifacts.file_selection import mark_dominated, pick_file
from kdcli.artifacts.validation_check import ValidationCheck
from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.footprint import count_file_bytes
from kdcli.evaluation.gates import check_gate_metrics, choose_gates, judge_gates
from kdcli.evaluation.latency.session_statistics import Session
from kdcli.evaluation.statistics import wilson_interval
from kdcli.events import Note, OnEvent
from kdcli.recipe.gates import METRICS, Gate
from kdcli.recipe.sections import Recipe
from kdcli.runs import writer
from kdcli.runs.directory import choose_run_folder
from kdcli.runs.export_results import Artifact, ExportFailure, ExportResult, render_interface_files
from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import relativize_path
from kdcli.setup.request import Request
from kdcli.setup.startup import start_tensorflow
from kdcli.spec import ExportFormat
from kdcli.teacher.run_teacher import RunTeacher, open_run_teacher, teacher_recipe


def export_model(
    model: Path, file: Path, request: Request, conversion: Conversion, *, out: Path | None
) -> ExportResult:
    """Convert a model to files, compare each file with the model, and copy those that pass.

    Args:
        model: the file or run directory of the command line.
        file: the model file.
        request: data, preprocessing and gates.
        conversion: files to write.
        out: a new or empty folder; a new one below `runs/` if None.

    Raises:
        KdError: any expected error.
    """
    out = out if out is not None else choose_run_folder("export", file.stem)
    check_empty(out)
    run_recipe = teacher_recipe(model, request.recipe)
    context, on_event = request.context, request.context.on_event
    for text in conversion.skipped:
        on_event(Note(f"left out: {text}, which is not installed"))
    gates = choose_gates(
        "export",
        request.gates,
        request.recipe.gates,
        teacher=run_recipe is not None,
        latency=conversion.latency,
        on_event=on_event,
    )
    with_data = request.has_data
    if not with_data:
        _check_without_data(request, conversion, gates)
    start_tensorflow(threads=context.threads, seed=request.recipe.train.seed, code=request.code)
    source = _open_source(model, file, request, conversion, with_data=with_data)
    labelled, task = source.reference.labels is not None, source.reference.task
    if task is not None:
        check_gate_metrics("export", gates, task, labelled=labelled)
    teacher = _open_teacher(model, run_recipe, request, source, gates)
    if teacher is not None:
        source = replace(source, reference=replace(source.reference, teacher=teacher.logits))
    gates = add_parity_gates(gates, task=task, labelled=labelled)
    export = Export(
        file=file,
        out=out,
        source=source,
        request=request,
        conversion=conversion,
        with_data=with_data,
        gates=gates,
        teacher=teacher,
    )
    return _describe(export)


def _describe(export: Export) -> ExportResult:
    """Write the files, and describe them."""
    source, out, with_data = export.source, export.out, export.with_data
    try:
        path, artifacts, results, failures = export.run()
    except OSError as error:
        raise writer.storage_error(out, error, retry="run the same command again") from error
    picked = pick_file(artifacts, export.conversion.pick)
    return ExportResult(
        path,
        export.file,
        artifacts,
        results,
        split=source.examples.split if with_data else None,
        examples=len(source.examples) if with_data else 0,
        accuracy=source.accuracy,
        failures=failures,
        picked=None if picked is None else picked.path,
    )


def _check_without_data(request: Request, conversion: Conversion, gates: Sequence[Gate]) -> None:
    data_options = {
        "--split": conversion.split != "auto",
        "--limit": conversion.limit is not None,
        "--batch-size": conversion.batch_size is not None,
        "--set": any(option.startswith("--set ") for option in request.origins.overrides.values()),
    }
    check_without_data(conversion.formats, data_options, gates, prepare=conversion.prepare)


def _open_source(
    model: Path, file: Path, request: Request, conversion: Conversion, *, with_data: bool
) -> ExportSource:
    on_event = request.context.on_event
    if with_data:
        source = open_source_with_data(
            model,
            request=request,
            output_kind=conversion.output_kind,
            split=conversion.split,
            limit=conversion.limit,
            batch_size=conversion.batch_size or 256,
            validation=any(form.searches for form in conversion.formats),
            on_event=on_event,
        )
    else:
        text = "no data: files take the same inputs as the model, and are compared on random inputs only"
        on_event(Note(text, warning=True))
        source = open_source_without_data(
            file, model=model, request=request, output_kind=conversion.output_kind, on_event=on_event
        )
    batch, fixed = conversion.batch, source.network.batch
    if batch is not None and fixed not in (None, batch):
        raise UsageError(f"--batch {batch}: {file} has the fixed batch size {fixed}", hint="leave out --batch")
    return source


def _open_teacher(
    model: Path, run_recipe: Recipe | None, request: Request, source: ExportSource, gates: Sequence[Gate]
) -> RunTeacher | None:
    """The teacher of the run, if a gate compares with it."""
    needed = any(METRICS[gate.metric].of_teacher for gate in gates)
    if run_recipe is None or source.dataset is None or not needed:
        return None
    return open_run_teacher(model, run_recipe, request, source.dataset, source.examples)


@dataclass(frozen=True, kw_only=True)
class Export:
    """The files of one model: written to scratch space, compared, timed, and copied to their folder.

    Args:
        file: the model file.
        out: folder of the files.
        source: the model with its outputs.
        request: threads, event listener and seed.
        conversion: files to write.
        with_data: whether there are real examples.
        gates: gates of the command, and gates on the differences from the model.
        teacher: the teacher of the run, if a gate compares with it.
    """

    file: Path
    out: Path
    source: ExportSource
    request: Request
    conversion: Conversion
    with_data: bool
    gates: tuple[Gate, ...]
    teacher: RunTeacher | None

    def run(
        self,
    ) -> tuple[Path | None, tuple[Artifact, ...], tuple[GateResult, ...], tuple[ExportFailure, ...]]:
        """Write, compare, time and copy the files.

        Returns:
            The folder (None if no file passed), the files, the results of the gates, and the failed conversions.
        """
        parameters, count = self.source.network.parameters or 0, len(self.conversion.formats)
        # Converters write several copies of the model.
        with writer.scratch_folder(50_000_000 + 12 * parameters * count) as scratch:
            folder = scratch / self.out.name
            folder.mkdir()
            with ExitStack() as resources:
                files, failures = self._convert(folder, resources)
                session, counterparts = self._time(files, resources)
                artifacts, results = self._judge(files, session, counterparts)
            return self._copy_passed(folder, artifacts), artifacts, results, failures

    def _convert(
        self, folder: Path, resources: ExitStack
    ) -> tuple[list[ConvertedFile], tuple[ExportFailure, ...]]:
        """Convert to every format that works; the other formats give failures.

        Raises:
            ModelError: no format works.
        """
        files, failures, errors = [], [], []
        for file_format in self.conversion.formats:
            path = folder / file_format.file_name(self.file.stem.removesuffix("_saved_model"))
            try:
                files.append(self._convert_one(file_format, path, resources))
            except ModelError as error:
                writer.remove(path)
                errors.append(error)
                failures.append(
                    ExportFailure(path.name, file_format.kind, file_format.variant, error.message, error.hint)
                )
        if errors and not files:
            for other in errors[1:]:
                self._on_event(Note(other.message, warning=True))
            raise errors[0]
        return files, tuple(failures)

    def _convert_one(self, file_format: ExportFormat, path: Path, resources: ExitStack) -> ConvertedFile:
        source, conversion = self.source, self.conversion
        converted = convert_file(
            file_format,
            source.network,
            path,
            inside=self.with_data and conversion.prepare != "outside",
            batch=conversion.batch,
            calibration=source.shown,
            examples=source.examples,
            reference=source.reference,
            batch_size=conversion.batch_size or 256,
            threads=self.request.context.threads,
            resources=resources,
            accepts=self._make_check(file_format),
            on_event=self._on_event,
        )
        file_format.add_labels(path, source.class_names)
        return converted

    def _make_check(self, file_format: ExportFormat) -> ValidationCheck | None:
        source = self.source
        if not file_format.searches or source.dataset is None:
            return None
        return ValidationCheck(
            file_format,
            source.reference.network,
            kind=source.reference.kind,
            dataset=source.dataset,
            gates=self.gates,
            seed=self.request.recipe.data_seed,
            threads=self.request.context.threads,
        )

    @property
    def _on_event(self) -> OnEvent:
        return self.request.context.on_event

    def _time(self, files: Sequence[ConvertedFile], resources: ExitStack) -> tuple[Session | None, Counterparts]:
        counterparts = Counterparts()
        if not self.conversion.latency:
            return None, counterparts
        if self.teacher is not None and any(gate.metric == "latency_ratio" for gate in self.gates):
            counterparts = export_counterparts(
                files,
                self.teacher,
                threads=self.request.context.threads,
                resources=resources,
                on_event=self._on_event,
            )
        session = time_converted_files(
            files,
            self.source.examples,
            teachers=counterparts.files,
            seed=self.request.recipe.data_seed,
            runtime=self.conversion.runtime,
            latency_command=self.conversion.latency_command,
            on_event=self._on_event,
        )
        return session, counterparts

    def _judge(
        self, files: Sequence[ConvertedFile], session: Session | None, counterparts: Counterparts
    ) -> tuple[tuple[Artifact, ...], tuple[GateResult, ...]]:
        doubts = session.doubts() if session is not None else ()
        for text in doubts:
            self._on_event(Note(f"latency: {text}", warning=True))
        names = [file.path.name for file in files]
        sizes = {file.path.name: count_file_bytes(file.format.find_file(file.path)) for file in files}
        shown = {name: relativize_path(self.out / name) for name in names}
        metrics = {
            shown[name]: collect_gate_metrics(file, sizes[name], session, counterparts.names)
            for name, file in zip(names, files, strict=True)
        }
        unknown = {shown[name]: {"latency_ratio": reason} for name, reason in counterparts.reasons.items()}
        results = judge_gates(self.gates, metrics, doubts=doubts, unknown=unknown)
        failed = {gate.model for gate in results if gate.name in PARITY_METRICS and gate.state == "failed"}
        artifacts = [
            Artifact(
                name=name,
                format=file.format.kind,
                quantize=file.format.variant,
                path=None if shown[name] in failed else self.out / name,
                bytes=sizes[name],
                input=describe_input(file, classes=self.source.network.outputs),
                max_abs_diff=file.parity.max_abs_diff,
                agreement=file.parity.agreement,
                accuracy=file.parity.accuracy,
                p50_ms=find_p50_ms(file, session),
                ram_bytes=file.ram_bytes,
                low=self._find_interval(file.parity.accuracy)[0],
                high=self._find_interval(file.parity.accuracy)[1],
                quality=file.parity.quality if self.with_data else None,
            )
            for name, file in zip(names, files, strict=True)
        ]
        missed = {gate.model for gate in results if gate.state == "failed"}
        passed = frozenset(name for name in names if shown[name] not in missed)
        return mark_dominated(artifacts, passed=passed), results

    def _find_interval(self, accuracy: float | None) -> tuple[float | None, float | None]:
        """The interval of an accuracy over examples; that over pixels or labels has none."""
        count = len(self.source.examples)
        if accuracy is None or self.source.reference.task != "classification":
            return None, None
        return wilson_interval(round(accuracy * count), count)

    def _copy_passed(self, folder: Path, artifacts: Sequence[Artifact]) -> Path | None:
        """Copy the files that passed with `labels.txt` and `input.json`; None if no file passed."""
        for artifact in artifacts:
            if artifact.path is None:
                path = folder / artifact.name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        passed = [artifact for artifact in artifacts if artifact.path is not None]
        if not passed:
            return None
        interfaces = {artifact.name: artifact.input for artifact in passed}
        for name, text in render_interface_files(interfaces, self.source.class_names).items():
            (folder / name).write_text(text, "utf-8")
        writer.copy_folder(folder, self.out)
        return self.out
