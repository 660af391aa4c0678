"""A distillation whose last stage is quantization-aware training: `train.quantize` of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcli.compression.quantize_request import QUANTIZE, make_quantize_request
from kdcli.compression.quantized_run import run_quantization
from kdcli.errors import Interrupted, StorageError, UsageError
from kdcli.evaluation.gates import choose_gates
from kdcli.jobs.build import build_distillation
from kdcli.jobs.job import format_recipe
from kdcli.jobs.preflight import check_job
from kdcli.jobs.run_distillation import run_distillation
from kdcli.recipe.gates import Gate, GatesSection
from kdcli.runs import writer
from kdcli.runs.directory import (
    ENVIRONMENT_FILE,
    RECIPE_FILE,
    STAGES_FOLDER,
    SUMMARY_FILE,
    find_run_model,
    read_json,
)
from kdcli.runs.results import FinishedRun, Plan
from kdcli.setup.request import Request, RunOptions
from kdcli.setup.run_location import RunLocation, find_directory


def distill_and_quantize(request: Request) -> FinishedRun | Plan:
    """Train the student in float32 in `stages/1`, then further with the rounding of its 8-bit file.

    Raises:
        KdError: any expected error; `--resume` goes on in the stage that was stopped.
    """
    if request.recipe.stages:
        raise UsageError(
            "train.quantize and stages exclude each other", hint="--set train.quantize=null, then kd quantize RUN"
        )
    path = find_directory("distill", request)
    first = _make_first(request, path)
    if request.context.dry_run:
        plan = run_distillation(replace(first, out=None, resume=False))
        assert isinstance(plan, Plan)
        return replace(plan, findings=(*plan.findings, "quantization-aware training follows, for int8"))
    gates = choose_gates(
        QUANTIZE, request.gates, request.recipe.gates, on_event=request.context.on_event, teacher=False
    )
    stored = path / STAGES_FOLDER / RECIPE_FILE
    if not (request.resume and stored.exists()):
        _check_first(path, first)
        _open(request, path)
    try:
        run_distillation(first)
        quantization = run_quantization(_make_second(request, path, gates))
    except Interrupted as interrupted:
        interrupted.run = path
        raise
    assert not isinstance(quantization, Plan)
    model = find_run_model(path)
    if model is None:
        raise StorageError(f"{path}: the run is finished, but its model is missing", hint="--overwrite")
    document = {**read_json(path / SUMMARY_FILE), "quantized": quantization.to_json()}
    return FinishedRun(path, model, document, gates=quantization.gates)


def _check_first(path: Path, first: Request) -> None:
    """Refuse what cannot be trained, before the directory is changed.

    Raises:
        UsageError: the directory holds a run without quantization.
        KdError: an input cannot be used.
    """
    if first.resume and (path / ENVIRONMENT_FILE).exists():
        raise UsageError(f"{path} holds a run without train.quantize", hint="another --out")
    job = build_distillation(RunLocation(path, first))
    if first.preflight:
        check_job(job)


def _make_first(request: Request, path: Path) -> Request:
    """The request of the training in float32; gates are judged on the 8-bit file."""
    train = request.recipe.train.model_copy(update={"quantize": None})
    recipe = request.recipe.model_copy(update={"train": train, "gates": GatesSection()})
    out = path / STAGES_FOLDER / "1"
    return replace(request, recipe=recipe, out=out, resume=True, overwrite=False, gates=())


def _make_second(request: Request, path: Path, gates: Sequence[Gate]) -> Request:
    context = request.context
    options: RunOptions = {
        "out": path,
        "resume": True,
        "trust": request.trust,
        "code": request.custom,
        "preflight": request.preflight,
        "on_event": context.on_event,
    }
    data: Any = request.arrays
    if data is not None:
        options["data"] = data
    made = make_quantize_request(path / STAGES_FOLDER / "1", gates=gates, **options)
    return replace(made, context=context)


def _open(request: Request, path: Path) -> None:
    """Create or empty the directory, and store the recipe for `--resume`."""
    run = RunLocation(path, request).open()
    try:
        stored = path / STAGES_FOLDER / RECIPE_FILE
        if not stored.exists():
            writer.make_folder(stored.parent)
            writer.write_text(stored, format_recipe(request.recipe))
    finally:
        run.close()
