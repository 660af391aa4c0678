"""Measure models on one split: metrics, agreement with a teacher, latency, gates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.artifacts.counterparts import Counterparts, find_counterparts
from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.chance import describe_chance
from kdcli.evaluation.footprint import count_file_bytes, count_model_bytes
from kdcli.evaluation.gates import check_gate_metrics, choose_gates, collect_metrics, judge_gates
from kdcli.evaluation.latency.cold_start import measure_cold_start
from kdcli.evaluation.latency.command import check_latency_command
from kdcli.evaluation.latency.session_statistics import Session
from kdcli.evaluation.quality import measure_classes
from kdcli.events import Note, OnEvent
from kdcli.models.files.format import SAVED_MODEL, detect_format, resolve_model_file
from kdcli.models.runtimes.network import RunnerNetwork
from kdcli.recipe.gates import Gate
from kdcli.recipe.reader import read_run_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs.directory import find_run_recipe
from kdcli.runs.evaluation_results import EvaluatedModel, Evaluation
from kdcli.runs.latency_results import Ratio
from kdcli.runs.results import Quality, relativize_path
from kdcli.setup.evaluated_models import (
    AGAIN,
    TEACHER,
    EvaluatedFile,
    check_runtime,
    open_evaluated_file,
    time_files,
)
from kdcli.setup.named_models import open_examples, require_data
from kdcli.setup.request import Request
from kdcli.setup.startup import start_tensorflow


@dataclass(frozen=True)
class Measurement:
    """What to measure, and on which examples.

    Args:
        split: `auto`, `train`, `validation`, `test` or `all`.
        limit: number of examples of the split, or a fraction of them; all if None.
        batch_size: examples per batch.
        per_class: whether to measure every class.
        latency: whether to time the models.
        runtime: the only runtime to time; all if None.
        latency_command: measures files in the place of this machine.
        cold: whether to measure cold starts.
    """

    split: str
    limit: float | None
    batch_size: int
    per_class: bool
    latency: bool
    runtime: str | None
    latency_command: str | None = None
    cold: bool = False


@dataclass(frozen=True, kw_only=True)
class MeasuredFile:
    """An opened model with its metrics.

    Args:
        name: path of the model, or `TEACHER`.
        file: the opened model.
        quality: its metrics.
        classes: metrics of each class, if requested.
    """

    name: str
    file: EvaluatedFile
    quality: Quality
    classes: tuple[Any, ...] = ()


def measure_models(
    models: Sequence[str | Path], teacher: str | Path | None, request: Request, measurement: Measurement
) -> Evaluation:
    """Open, measure and time models, and judge their gates.

    Args:
        models: model files and run directories.
        teacher: a model file or run directory to compare with.
        request: data, preprocessing and gates.
        measurement: what to measure.

    Raises:
        KdError: any expected error.
    """
    context, on_event = request.context, request.context.on_event
    if measurement.latency_command is not None:
        check_latency_command(measurement.latency_command)
    gates = choose_gates(
        "evaluate",
        request.gates,
        request.recipe.gates,
        teacher=teacher is not None,
        latency=measurement.latency,
        on_event=on_event,
    )
    files = [
        resolve_model_file(Path(model), trust=request.trust)
        for model in (*models, *([teacher] if teacher else []))
    ]
    check_runtime(measurement.runtime, [detect_format(file) for file in files], latency=measurement.latency)
    gated = _find_gated_models(files[: len(models)], files[-1] if teacher is not None else None, gates, on_event)
    require_data(request)
    start_tensorflow(threads=context.threads, seed=request.recipe.train.seed, code=request.code)
    dataset, examples = open_examples(request, split=measurement.split, limit=measurement.limit, on_event=on_event)
    _check_metrics(gates, dataset, examples, per_class=measurement.per_class)
    for text in _describe_other_splits(models, measurement.split, request):
        on_event(Note(text, warning=True))
    with ExitStack() as resources:
        measured = _measure_all(models, teacher, request, dataset, examples, measurement, resources)
        named = [one.file for one in measured if one.name != TEACHER]
        session, counterparts = None, Counterparts()
        if measurement.latency:
            session, counterparts = _time_all(measured, examples, request, measurement, resources)
        results = [_to_result(one, session, counterparts) for one in measured if one.name != TEACHER]
    if measurement.cold:
        results = [_add_cold_start(one, file, on_event) for one, file in zip(results, named, strict=True)]
    floor = session.noise_floor(AGAIN, next(iter(session.subjects))) if session is not None else None
    doubts = session.doubts(floor) if session is not None else ()
    for text in doubts:
        on_event(Note(f"latency: {text}", warning=True))
    judged = [one for one, is_gated in zip(results, gated, strict=True) if is_gated]
    accuracy = next((one.quality.accuracy for one in measured if one.name == TEACHER), None)
    metrics = {relativize_path(one.path): _collect_metrics(one, accuracy) for one in judged}
    unknown = {relativize_path(one.path): {"latency_ratio": one.no_ratio} for one in judged if one.no_ratio}
    gate_results = judge_gates(gates, metrics, doubts=doubts, unknown=unknown)
    return Evaluation(examples.split, tuple(results), gate_results, floor, doubts)


def _check_metrics(gates: Sequence[Gate], dataset: Dataset, examples: Examples, *, per_class: bool) -> None:
    labelled = examples.labels is not None
    check_gate_metrics("evaluate", gates, dataset.task, labelled=labelled)
    if per_class and (dataset.task == "regression" or not labelled):
        raise UsageError("--per-class needs labels that are classes", hint="leave out --per-class")


def _measure_all(
    models: Sequence[str | Path],
    teacher: str | Path | None,
    request: Request,
    dataset: Dataset,
    examples: Examples,
    measurement: Measurement,
    resources: ExitStack,
) -> list[MeasuredFile]:
    """The teacher first, then the models in order."""
    on_event, logits = request.context.on_event, None
    found: list[MeasuredFile] = []
    named = [(TEACHER, teacher, "teacher")] if teacher is not None else []
    for name, path, role in (*named, *((str(model), model, "student") for model in models)):
        file = open_evaluated_file(
            Path(path),
            role,
            request=request,
            dataset=dataset,
            threads=request.context.threads,
            opened=resources,
            on_event=on_event,
        )
        quality, outputs = file.measure(
            examples, task=dataset.task, on_event=on_event, batch_size=measurement.batch_size, teacher=logits
        )
        if name == TEACHER:
            logits = outputs
            found.append(MeasuredFile(name=name, file=file, quality=quality))
            continue
        classes = _measure_classes(outputs, examples, dataset, logits) if measurement.per_class else ()
        found.append(MeasuredFile(name=name, file=file, quality=quality, classes=classes))
        if quality.at_chance:
            on_event(Note(describe_chance(quality, name, examples.split), warning=True))
    return found


def _time_all(
    measured: Sequence[MeasuredFile],
    examples: Examples,
    request: Request,
    measurement: Measurement,
    resources: ExitStack,
) -> tuple[Session, Counterparts]:
    files = {one.name: one.file for one in measured}
    on_event = request.context.on_event
    counterparts = find_counterparts(
        files, threads=request.context.threads, resources=resources, runtime=measurement.runtime, on_event=on_event
    )
    session = time_files(
        files,
        examples,
        teachers=counterparts.files,
        seed=request.recipe.data_seed,
        runtime=measurement.runtime,
        latency_command=measurement.latency_command,
        on_event=on_event,
    )
    return session, counterparts


def _find_gated_models(
    models: Sequence[Path], teacher: Path | None, gates: Sequence[Gate], on_event: OnEvent
) -> list[bool]:
    """Whether gates apply to each model: to all but the teacher itself.

    Raises:
        UsageError: there are gates, and the teacher is the only model.
    """
    gated = [teacher is None or model.resolve() != teacher.resolve() for model in models]
    if gates and not any(gated):
        raise UsageError(
            f"gate {gates[0].metric} {gates[0].text}: {models[0]} is the teacher, and gates do not apply to it",
            hint="evaluate another model, or leave out --teacher",
        )
    for model, is_gated in zip(models, gated, strict=True):
        if gates and not is_gated:
            on_event(Note(f"{model} is the teacher: gates do not apply to it"))
    return gated


def _to_result(one: MeasuredFile, session: Session | None, counterparts: Counterparts) -> EvaluatedModel:
    file, name = one.file, one.name
    timed = session is not None and name in session.subjects
    ratio: Ratio | None = None
    if session is not None and timed and name in counterparts.names:
        ratio = session.ratio(name, counterparts.names[name])
    return EvaluatedModel(
        path=file.path,
        format=file.format,
        sha256=file.sha256,
        parameters=file.network.parameters,
        bytes=count_model_bytes(file.path),
        quality=one.quality,
        flops=file.flops,
        latency=session.summarize(name) if session is not None and timed else None,
        ratio=ratio,
        no_ratio=counterparts.reasons.get(name) if timed else None,
        file_bytes=count_file_bytes(file.path),
        classes=one.classes,
    )


def _add_cold_start(result: EvaluatedModel, file: EvaluatedFile, on_event: OnEvent) -> EvaluatedModel:
    """Measure the cold start of a model, unless its file opens only through kd."""
    form = {"keras": "keras", SAVED_MODEL: "saved_model", "tflite": "tflite", "onnx": "onnx"}.get(file.format)
    if form is None:
        on_event(Note(f"{file.path}: no cold start is measured for a file of the format {file.format}"))
        return result
    on_event(Note(f"{file.path}: measuring its cold start"))
    inputs = [
        (one.preprocessed_shape, spec.dtype)
        for one, spec in zip(file.network.preprocessing.values(), file.network.inputs, strict=True)
    ]
    batch = file.network.batch
    if isinstance(file.network, RunnerNetwork):
        inputs = [(one.shape, one.dtype) for one in file.network.runner.inputs]
        batch = file.network.runner.batch
    try:
        cold = measure_cold_start(file.path, form, inputs, batch=batch or 1)
    except ModelError as error:
        on_event(Note(error.message, warning=True))
        return result
    return replace(result, cold=cold)


def _collect_metrics(model: EvaluatedModel, teacher_accuracy: float | None) -> dict[str, float | None]:
    return collect_metrics(
        model.quality,
        size=model.bytes,
        parameters=model.parameters,
        teacher_accuracy=teacher_accuracy,
        flops=model.flops,
        latency=model.latency,
        latency_ratio=model.ratio.value if model.ratio else None,
    )


def _measure_classes(
    logits: np.ndarray, examples: Examples, dataset: Dataset, teacher: np.ndarray | None
) -> tuple[Any, ...]:
    labels = np.asarray(examples.all_labels())
    return measure_classes(logits, labels, task=dataset.task, names=dataset.class_names, teacher=teacher)


def _describe_other_splits(models: Sequence[str | Path], split: str, request: Request) -> list[str]:
    """Warnings about runs whose training examples may be in the split."""
    if split not in ("train", "validation"):
        return []
    settings, texts = _split_settings(request.recipe), []
    for model in models:
        path = find_run_recipe(Path(model))
        if path is not None and _split_settings(read_run_recipe(path)) != settings:
            texts.append(f"{model} was trained on another split: it may have seen some of these examples")
    return texts


def _split_settings(recipe: Recipe) -> tuple[Any, ...]:
    # As plain entries: a custom source may have been read without its class.
    source = recipe.data.model_dump(mode="json", exclude_none=True).get("source")
    return source, recipe.data.validation, recipe.data.limit, recipe.data_seed
