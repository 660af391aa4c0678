"""kd evaluate: one or several models on one split."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.artifacts.counterparts import Counterparts, find_counterparts
from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.errors import UsageError
from kdcli.evaluation.chance import describe_chance
from kdcli.evaluation.footprint import count_file_bytes, count_model_bytes
from kdcli.evaluation.gates import check_gate_metrics, choose_gates, collect_metrics, judge_gates
from kdcli.evaluation.latency.session import Session
from kdcli.evaluation.per_class import measure_classes
from kdcli.events import Note, OnEvent, ignore_event
from kdcli.models.files.format import detect_format, resolve_model_file
from kdcli.recipe.gates import Gate
from kdcli.recipe.reader import read_run_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs.directory import find_run_recipe
from kdcli.runs.evaluation_results import EvaluatedModel, Evaluation
from kdcli.runs.latency_results import Ratio
from kdcli.runs.results import relativize_path
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.evaluated_models import (
    AGAIN,
    TEACHER,
    EvaluatedFile,
    check_runtime,
    open_evaluated_file,
    time_files,
)
from kdcli.setup.named_models import check_limits, open_examples, request_for_models, require_data
from kdcli.setup.request import SPLIT_OPTIONS, Request
from kdcli.setup.startup import start_tensorflow


def evaluate(
    *models: str | Path,
    data: Any = None,
    teacher: str | Path | None = None,
    recipe: Any = None,
    settings: Sequence[str] = (),
    split: str = "auto",
    limit: float | None = None,
    batch_size: int | None = None,
    signature: str | None = None,
    output: str | None = None,
    trust: Trust = NO_TRUST,
    code: Sequence[str | Path] = (),
    threads: int | None = None,
    latency: bool = False,
    runtime: str | None = None,
    per_class: bool = False,
    gates: Sequence[str | Gate] = (),
    on_event: OnEvent = ignore_event,
) -> Evaluation:
    """Measure models on a split: accuracy with its interval, loss, calibration, agreement with a teacher, speed.

    Args:
        models: `.keras`, `.h5` or `.tflite` files, or run directories, which bring their data and preparation.
        data: a name, a path, or arrays as in `kdcli.distill`; of the first run when left out.
        teacher: a file or run directory to compare decisions and speed with.
        recipe: for its `data`, `student.input` (every model), `teacher.input` and `gates`.
        settings: `path=value` texts, as for `--set`.
        split: `auto` (test where there is one, else everything), `train`, `validation`, `test`, `all`.
        limit: how many examples of the split: a count, or a share written with a point; stratified.
        batch_size: examples in a batch; 256 when left out. It changes the speed, not the figures.
        signature, output: which signature of a SavedModel, and which of several outputs, of each model.
        trust: what files may do: `kdcli.Trust(model=True)` is `--trust-model`.
        code: Python files that define own layers or kinds.
        threads: of TensorFlow, before it has started, and of readers of `.tflite` files.
        latency: time the models, in turns, for about three seconds each.
        runtime: time only models that `tensorflow` or `litert` runs.
        per_class: precision, recall and F1 of every class too.
        gates: bounds such as `accuracy>=0.97`; they win over the recipe's. What fails is said in the result.
        on_event: told of progress.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.evaluate("student.keras", data="digits").models[0].quality.accuracy   # doctest: +SKIP
    """
    if not models:
        raise UsageError("no model to evaluate", hint="kd evaluate MODEL|RUN ... --data D")
    if split not in SPLIT_OPTIONS:
        raise UsageError(f"--split must be one of {', '.join(SPLIT_OPTIONS)}, got {split!r}")
    check_limits(limit=limit, batch_size=batch_size)
    request = request_for_models(
        models,
        recipe,
        settings=settings,
        data=data,
        signature=signature,
        output=output,
        trust=trust,
        code=code,
    )
    has_teacher = teacher is not None
    idle = next((one for one in settings if one.startswith("teacher.")), None)
    if idle is not None and not has_teacher:
        raise UsageError(
            f"--set {idle} has no effect without --teacher",
            hint=f"for MODEL: --set student.{idle.partition('.')[2]}",
        )
    chosen = choose_gates(
        "evaluate", gates, request.recipe.gates, teacher=has_teacher, latency=latency, on_event=on_event
    )
    files = [resolve_model_file(Path(model), trust=trust) for model in (*models, *([teacher] if teacher else []))]
    check_runtime(runtime, [detect_format(file) for file in files], latency=latency)
    own = files[-1] if teacher is not None else None
    held = _held_to_gates(files[: len(models)], own, chosen, on_event)
    require_data(request)
    start_tensorflow(threads=threads, seed=request.recipe.train.seed, code=request.code)
    dataset, examples = open_examples(request, split=split, limit=limit, on_event=on_event)
    labelled = examples.labels is not None
    check_gate_metrics("evaluate", chosen, dataset.task, labelled=labelled)
    if per_class and (dataset.task == "regression" or not labelled):
        raise UsageError("--per-class needs labels that are classes", hint="leave --per-class out")
    for text in _of_other_splits(models, split, request):
        on_event(Note(text, warning=True))
    with ExitStack() as opened:
        opening: dict[str, Any] = {"asked": request, "dataset": dataset, "threads": threads}
        opening |= {"opened": opened, "on_event": on_event}
        measuring: dict[str, Any] = {"task": dataset.task, "on_event": on_event, "batch_size": batch_size or 256}
        candidates, answers, accuracy = {}, None, None
        if teacher is not None:
            candidates[TEACHER] = open_evaluated_file(Path(teacher), "teacher", **opening)
            quality, answers = candidates[TEACHER].measure(examples, **measuring)
            accuracy = quality.accuracy
        measured = []
        for model in models:
            candidate = open_evaluated_file(Path(model), "student", **opening)
            candidates[str(model)] = candidate
            quality, logits = candidate.measure(examples, teacher=answers, **measuring)
            classes = _classes(logits, examples, dataset, answers) if per_class else ()
            measured.append((str(model), candidate, quality, classes))
            if quality.at_chance:
                on_event(Note(describe_chance(quality, str(model), examples.split), warning=True))
        session, floor, against = None, None, Counterparts()
        doubts: tuple[str, ...] = ()
        if latency:
            timing: dict[str, Any] = {"runtime": runtime, "on_event": on_event}
            against = find_counterparts(candidates, threads=threads, resources=opened, **timing)
            seed = request.recipe.data_seed
            session = time_files(candidates, examples, teachers=against.files, seed=seed, **timing)
            floor = session.noise_floor(AGAIN, next(iter(session.subjects)))
            doubts = session.doubts(floor)
        evaluated = [_evaluated(*one, session, against) for one in measured]
    for text in doubts:
        on_event(Note(f"latency: {text}", warning=True))
    judged = [one for one, is_held in zip(evaluated, held, strict=True) if is_held]
    known = {relativize_path(one.path): _figures(one, accuracy) for one in judged}
    unknown = {relativize_path(one.path): {"latency_ratio": one.no_ratio} for one in judged if one.no_ratio}
    results = judge_gates(chosen, known, doubts=doubts, unknown=unknown)
    return Evaluation(examples.split, tuple(evaluated), results, floor, doubts)


def _held_to_gates(
    models: Sequence[Path], teacher: Path | None, gates: Sequence[Gate], on_event: OnEvent
) -> list[bool]:
    """Which models are held to gates: all but the teacher itself.

    Raises:
        UsageError: there is no other model.
    """
    held = [teacher is None or model.resolve() != teacher.resolve() for model in models]
    if gates and not any(held):
        raise UsageError(
            f"gate {gates[0].metric} {gates[0].text}: gates are not for the teacher, and {models[0]} is --teacher",
            hint="name another model, or leave --teacher out",
        )
    for model, is_held in zip(models, held, strict=True):
        if gates and not is_held:
            on_event(Note(f"{model} is the teacher: gates are not for it"))
    return held


def _evaluated(
    name: str,
    candidate: EvaluatedFile,
    quality: Any,
    classes: tuple[Any, ...],
    session: Session | None,
    against: Counterparts,
) -> EvaluatedModel:
    timed = session is not None and name in session.subjects
    ratio: Ratio | None = None
    if session is not None and timed and name in against.names:
        ratio = session.ratio(name, against.names[name])
    return EvaluatedModel(
        candidate.path,
        candidate.format,
        candidate.sha256,
        candidate.network.parameters,
        count_model_bytes(candidate.path),
        quality,
        candidate.flops,
        session.summarize(name) if session is not None and timed else None,
        ratio,
        against.reasons.get(name) if timed else None,
        count_file_bytes(candidate.path),
        classes,
    )


def _figures(model: EvaluatedModel, teacher_accuracy: float | None) -> dict[str, float | None]:
    return collect_metrics(
        model.quality,
        size=model.bytes,
        parameters=model.parameters,
        teacher_accuracy=teacher_accuracy,
        flops=model.flops,
        latency=model.latency,
        latency_ratio=model.ratio.value if model.ratio else None,
    )


def _classes(
    logits: np.ndarray, examples: Examples, dataset: Dataset, teacher: np.ndarray | None
) -> tuple[Any, ...]:
    labels = np.asarray(examples.all_labels())
    return measure_classes(logits, labels, task=dataset.task, names=dataset.class_names, teacher=teacher)


def _of_other_splits(models: Sequence[str | Path], split: str, request: Request) -> list[str]:
    """Runs that were trained on other examples than the split is carved from."""
    if split not in ("train", "validation"):
        return []
    ours, texts = _carving(request.recipe), []
    for model in models:
        own = find_run_recipe(Path(model))
        if own is not None and _carving(read_run_recipe(own)) != ours:
            texts.append(f"{model} was trained on another split: it may have seen some of these examples")
    return texts


def _carving(recipe: Recipe) -> tuple[Any, ...]:
    # As entries: a source of the user's own may have been read without its class.
    source = recipe.data.model_dump(mode="json", exclude_none=True).get("source")
    return source, recipe.data.validation, recipe.data.limit, recipe.data_seed
