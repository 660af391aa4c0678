"""kd export: files that ship, each compared with its model before it is left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcli.artifacts.checks import check_empty, check_options, check_without_data
from kdcli.artifacts.counterparts import Counterparts, export_counterparts
from kdcli.artifacts.files import (
    ConvertedFile,
    add_parity_gates,
    collect_gate_metrics,
    convert_file,
    describe_input,
    find_p50_ms,
    time_converted_files,
)
from kdcli.artifacts.source import ExportSource, open_source_with_data, open_source_without_data
from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.footprint import count_file_bytes
from kdcli.evaluation.gates import check_gate_metrics, choose_gates, judge_gates
from kdcli.evaluation.latency.session import Session
from kdcli.events import Note, OnEvent, ignore_event
from kdcli.exports.choosing import choose_formats
from kdcli.extras import require_extra
from kdcli.models.files.format import detect_format, resolve_model_file
from kdcli.recipe.gates import METRICS, Gate
from kdcli.runs import writer
from kdcli.runs.directory import choose_run_folder
from kdcli.runs.export_results import INTERFACE_FILE, LABELS_FILE, Artifact, ExportFailure, ExportResult
from kdcli.runs.gate_results import GateResult
from kdcli.runs.results import relativize_path
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.named_models import check_limits, request_for_models
from kdcli.setup.request import Request
from kdcli.setup.startup import start_tensorflow
from kdcli.spec import ExportFormat
from kdcli.teacher.run_teacher import RunTeacher, open_run_teacher, teacher_recipe

# Figures that compare a file with its model: a file that fails one of them is not left behind.
PARITY = ("export_drop", "export_agreement", "unexplained", "max_abs_diff")


def export(
    model: str | Path,
    *,
    formats: Sequence[str],
    quantize: Sequence[str] = (),
    data: Any = None,
    out: str | Path | None = None,
    recipe: Any = None,
    settings: Sequence[str] = (),
    prepare: str | None = None,
    io: str | None = None,
    batch: int | None = None,
    output_kind: str = "teacher",
    split: str = "auto",
    limit: float | None = None,
    batch_size: int | None = None,
    signature: str | None = None,
    output: str | None = None,
    trust: Trust = NO_TRUST,
    code: Sequence[str | Path] = (),
    threads: int | None = None,
    latency: bool = True,
    runtime: str | None = None,
    gates: Sequence[str | Gate] = (),
    on_event: OnEvent = ignore_event,
) -> ExportResult:
    """Write a model as files that ship.

    Each file is opened again in its own runtime and compared with the model on the same raw examples. One that
    loses more than 0.01 of the accuracy is not left behind (`export_drop` sets another bound); without labels
    the share of changed decisions counts, for values the share of the variance that is missed.

    Args:
        model: a `.keras` or `.h5` file or a SavedModel, or a run directory, which brings its data and preparation.
        formats: `keras`, `saved-model`, `litert`, `onnx`.
        quantize: of `litert`: `none`, `float16`, `dynamic`, `int8`; several give several files.
        data: a name, a path, or arrays as in `kdcli.distill`; of the run when left out. Without data files are
            compared on random inputs, take what the model itself takes, and cannot be `int8`.
        out: a new or empty folder; `runs/<time>_export_<name>` when left out.
        recipe: for its `data`, `student.input` and `gates`.
        settings: `path=value` texts, as for `--set`.
        prepare: `inside` lets raw examples go in, `outside` what the model itself takes; inside where there is
            data.
        io: of litert files: `float32` at both ends, or of `int8` ones `uint8` or `int8`. When left out raw bytes
            of images go in and floats come out.
        batch: the only batch size that the files take; any when left out (LiteRT opens at 1 and resizes).
        output_kind: what files give: `teacher` (what the file of the run's teacher gives; of a model that is not
            a run, what it gives itself), `probabilities` or `logits`.
        split: that files are compared on: `auto` (test where there is one, else everything), `train`, ...
        limit: how many examples of the split: a count, or a share written with a point; stratified.
        batch_size: examples in a batch when the model answers; 256 when left out.
        signature, output: which signature of a SavedModel, and which of several outputs.
        trust: what files may do: `kdcli.Trust(model=True)` is `--trust-model`.
        code: Python files that define own layers or kinds.
        threads: of TensorFlow, before it has started, and of the other runtimes.
        latency: time the files, in turns, for about two seconds each.
        runtime: time only files of this one: `tensorflow`, `litert`, `onnxruntime`.
        gates: bounds such as `size_mb<=0.1`; they win over the recipe's. What fails is said in the result.
        on_event: told of progress.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.export("student.keras", formats=["litert"], data="digits").path   # doctest: +SKIP
    """
    given, file = Path(model), resolve_model_file(Path(model), trust=trust)
    detect_format(file)
    chosen = choose_formats(formats, quantize=quantize, io=io)
    for one in chosen:
        if one.extra is not None:
            require_extra(one.extra, subject=f"--format {one.kind}")
    check_limits(limit=limit, batch_size=batch_size)
    check_options(
        chosen,
        prepare=prepare,
        batch=batch,
        output_kind=output_kind,
        split=split,
        latency=latency,
        runtime=runtime,
    )
    place = Path(out) if out is not None else choose_run_folder("export", file.stem)
    check_empty(place)
    request = request_for_models(
        [given],
        recipe,
        settings=settings,
        data=data,
        signature=signature,
        output=output,
        trust=trust,
        code=code,
    )
    taught = teacher_recipe(given, request.recipe)
    measured: dict[str, Any] = {"teacher": taught is not None, "latency": latency, "on_event": on_event}
    bounds = choose_gates("export", gates, request.recipe.gates, **measured)
    with_data = request.recipe.data.source is not None or request.arrays is not None
    if not with_data:
        examples_only = {"--split": split != "auto", "--limit": limit is not None}
        examples_only |= {"--batch-size": batch_size is not None, "--set": bool(settings)}
        check_without_data(chosen, examples_only, bounds, prepare=prepare)
    start_tensorflow(threads=threads, seed=request.recipe.train.seed, code=request.code)
    shipped = _shipped(given, file, request, with_data, output_kind, split, limit, batch_size or 256, on_event)
    if batch is not None and shipped.network.batch not in (None, batch):
        raise UsageError(
            f"--batch {batch}: {file} takes batches of {shipped.network.batch} only", hint="leave --batch out"
        )
    labelled, task = shipped.reference.labels is not None, shipped.reference.task
    if task is not None:
        check_gate_metrics("export", bounds, task, labelled=labelled)
    teacher: RunTeacher | None = None
    if (
        taught is not None
        and shipped.dataset is not None
        and any(METRICS[one.metric].of_teacher for one in bounds)
    ):
        teacher = open_run_teacher(given, taught, request, shipped.dataset, shipped.examples)
        shipped = replace(shipped, reference=replace(shipped.reference, teacher=teacher.logits))
    bounds = add_parity_gates(bounds, task=task, labelled=labelled)
    try:
        # Converters keep several copies beside each other.
        with writer.scratch_folder(50_000_000 + 12 * (shipped.network.parameters or 0) * len(chosen)) as scratch:
            folder = scratch / place.name
            folder.mkdir()
            with ExitStack() as opened:
                files, failures = _make_files(
                    chosen,
                    shipped,
                    folder,
                    name=file.stem.removesuffix("_saved_model"),
                    on_event=on_event,
                    inside=with_data and prepare != "outside",
                    batch=batch,
                    batch_size=batch_size or 256,
                    threads=threads,
                    opened=opened,
                )
                session, against = None, Counterparts()
                if latency:
                    if teacher is not None and any(one.metric == "latency_ratio" for one in bounds):
                        against = export_counterparts(
                            files, teacher, threads=threads, resources=opened, on_event=on_event
                        )
                    session = time_converted_files(
                        files,
                        shipped.examples,
                        teachers=against.files,
                        seed=request.recipe.data_seed,
                        runtime=runtime,
                        on_event=on_event,
                    )
                artifacts, results = _judged(files, bounds, shipped, session, against, place, on_event)
            left = _placed(folder, place, artifacts, shipped.class_names)
    except OSError as error:
        raise writer.storage_error(place, error, retry="run the same command again") from error
    split_used = shipped.examples.split if with_data else None
    count = len(shipped.examples) if with_data else 0
    return ExportResult(left, file, artifacts, results, split_used, count, shipped.accuracy, failures)


def _shipped(
    given: Path,
    file: Path,
    request: Request,
    with_data: bool,
    output_kind: str,
    split: str,
    limit: float | None,
    batch_size: int,
    on_event: OnEvent,
) -> ExportSource:
    if with_data:
        return open_source_with_data(
            given,
            request=request,
            output_kind=output_kind,
            split=split,
            limit=limit,
            batch_size=batch_size,
            on_event=on_event,
        )
    text = "no data: files take what the model itself takes, and are compared on random inputs only"
    on_event(Note(text, warning=True))
    return open_source_without_data(file, model=given, request=request, output_kind=output_kind, on_event=on_event)


def _make_files(
    chosen: Sequence[ExportFormat],
    shipped: ExportSource,
    folder: Path,
    *,
    name: str,
    on_event: OnEvent,
    **options: Any,
) -> tuple[list[ConvertedFile], tuple[ExportFailure, ...]]:
    """Every file that can be written, and why the others cannot.

    Raises:
        ModelError: none can.
    """
    files, failures, errors = [], [], []
    for one in chosen:
        path = folder / one.file_name(name)
        try:
            made = convert_file(
                one,
                shipped.network,
                path,
                calibration=shipped.shown,
                examples=shipped.examples,
                reference=shipped.reference,
                on_event=on_event,
                **options,
            )
        except ModelError as error:
            writer.remove(path)
            errors.append(error)
            failures.append(ExportFailure(path.name, one.kind, one.variant, error.message, error.hint))
        else:
            files.append(made)
    if errors and not files:
        for other in errors[1:]:
            on_event(Note(other.message, warning=True))
        raise errors[0]
    return files, tuple(failures)


def _judged(
    files: Sequence[ConvertedFile],
    bounds: Sequence[Gate],
    shipped: ExportSource,
    session: Session | None,
    against: Counterparts,
    place: Path,
    on_event: OnEvent,
) -> tuple[tuple[Artifact, ...], tuple[GateResult, ...]]:
    doubts = session.doubts() if session is not None else ()
    for text in doubts:
        on_event(Note(f"latency: {text}", warning=True))
    sizes = {made.path.name: count_file_bytes(made.path) for made in files}
    shown = {made.path.name: relativize_path(place / made.path.name) for made in files}
    known = {
        shown[name]: collect_gate_metrics(made, sizes[name], session, against.names)
        for made in files
        if (name := made.path.name)
    }
    unknown = {shown[name]: {"latency_ratio": reason} for name, reason in against.reasons.items()}
    results = judge_gates(bounds, known, doubts=doubts, unknown=unknown)
    failed = {gate.model for gate in results if gate.name in PARITY and gate.state == "failed"}
    network, artifacts = shipped.network, []
    for made in files:
        name, parity = made.path.name, made.parity
        artifacts.append(
            Artifact(
                name,
                made.format.kind,
                made.format.variant,
                None if shown[name] in failed else place / name,
                sizes[name],
                describe_input(made, classes=network.outputs),
                parity.max_abs_diff,
                parity.agreement,
                parity.accuracy,
                find_p50_ms(made, session),
            )
        )
    return tuple(artifacts), results


def _placed(folder: Path, place: Path, artifacts: Sequence[Artifact], class_names: Sequence[str]) -> Path | None:
    """Leave behind what passed, with `labels.txt` and `input.json` beside it; nothing when nothing did."""
    for artifact in artifacts:
        if artifact.path is None:
            path = folder / artifact.name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = [artifact for artifact in artifacts if artifact.path is not None]
    if not kept:
        return None
    if class_names:
        (folder / LABELS_FILE).write_text("".join(f"{name}\n" for name in class_names), "utf-8")
    taken = {artifact.name: artifact.input.to_json() for artifact in kept}
    (folder / INTERFACE_FILE).write_text(json.dumps(taken, indent=2) + "\n", "utf-8")
    writer.copy_folder(folder, place)
    return place
