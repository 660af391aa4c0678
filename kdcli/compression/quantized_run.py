"""Quantization-aware training under the teacher, and its file beside the one that is quantized after training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.artifacts.converted_file import (
    ConvertedFile,
    describe_input,
    find_p50_ms,
    time_converted_files,
    write_file,
)
from kdcli.artifacts.export_source import ExportSource, make_source, require_exportable
from kdcli.compression.measurement import BATCH_SIZE, Measured, compute_logits, convert_source, measure
from kdcli.compression.metric import PairedMetric, choose_metric
from kdcli.compression.quantize_request import QUANTIZE
from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.footprint import count_file_bytes
from kdcli.evaluation.gates import check_gate_metrics, choose_gates, collect_metrics, judge_gates
from kdcli.evaluation.parity import to_logits
from kdcli.evaluation.quality import evaluate_split
from kdcli.events import Note, Planned
from kdcli.exports.format_choice import choose_formats
from kdcli.jobs.build import build_distillation
from kdcli.jobs.execute import execute
from kdcli.jobs.plan import make_plan
from kdcli.models.custom_code import attribute_errors
from kdcli.models.inference import choose_exported_kind
from kdcli.models.network import Network
from kdcli.quantization.network import QuantizedNetwork
from kdcli.recipe.gates import Gate
from kdcli.runs import writer
from kdcli.runs.directory import QUANTIZATION_FILE, QUANTIZED_FILE, STUDENT_FILE, read_json
from kdcli.runs.export_results import render_interface_files
from kdcli.runs.quantization_results import Quantization
from kdcli.runs.results import Plan
from kdcli.setup.evaluated_models import open_evaluated_file
from kdcli.setup.request import Request
from kdcli.setup.run_location import RunLocation, find_location, open_data

FLOAT, AFTER, TRAINED = "float32", "int8, after training", "int8, trained"
_SCRATCH_BYTES = 500_000_000


def run_quantization(request: Request) -> Quantization | Plan:
    """Train a student with the rounding of its 8-bit file, and write the better of its two 8-bit files.

    Raises:
        KdError: any expected error.
    """
    location, on_event = find_location(QUANTIZE, request), request.context.on_event
    gates = choose_gates(QUANTIZE, request.gates, request.recipe.gates, on_event=on_event)
    if location.finished is None:
        with attribute_errors(request.code):
            job = build_distillation(location)
        job.command = QUANTIZE
        if job.dataset.validation is None:
            raise UsageError(
                "kd quantize needs validation examples to choose between two files, and the data has none",
                hint="--set data.validation=0.1",
            )
        check_gate_metrics(QUANTIZE, gates, job.dataset.task, labelled=job.dataset.labelled)
        choose_metric(None, job.dataset.task, labelled=job.dataset.labelled)
        _check_conversion(job.trained.network, request)
        plan = make_plan(job, (), measured=request.context.dry_run)
        if request.context.dry_run:
            return plan
        on_event(Planned(plan))
        execute(job, location)
    return finish_quantization(location, gates)


def _check_conversion(network: QuantizedNetwork, request: Request) -> None:
    """Convert the untrained network, so that a model which has no 8-bit file is refused before the training.

    Raises:
        ModelError: it cannot be converted.
    """
    (form,) = choose_formats(["litert"], quantize=["int8"])
    require_exportable(network)
    with writer.scratch_folder(_SCRATCH_BYTES) as folder:
        batch = 1 if network.converts_single else network.batch
        write_file(form, network, folder / "student.tflite", True, network.saved_kind, None, batch)
    if network.placement.floats:
        names = ", ".join(network.placement.floats)
        request.context.on_event(
            Note(f"these layers stay in float32, because they have no 8-bit form here: {names}", warning=True)
        )


def finish_quantization(location: RunLocation, gates: Sequence[Gate] = ()) -> Quantization:
    """Write the better 8-bit file of a finished run, or read back what was written.

    Args:
        location: of the finished run.
        gates: judged on the file.

    Raises:
        ModelError: the model cannot be converted.
        StorageError: the run cannot be written.
    """
    run = location.path
    if not (run / QUANTIZATION_FILE).is_file():
        with ExitStack() as resources:
            _Comparison(location, resources).write()
    document = read_json(run / QUANTIZATION_FILE)
    return Quantization(run=run, document=document, gates=_judge(document, gates))


def _judge(document: dict[str, Any], gates: Sequence[Gate]) -> tuple[Any, ...]:
    row = next(one for one in document["files"] if one["name"] == document["picked"])
    return judge_gates(gates, {row["path"]: row["metrics"]})


@dataclass(frozen=True)
class _File:
    name: str
    source: ExportSource
    converted: ConvertedFile
    validation: Measured
    test: Measured | None


class _Comparison:
    """The float32 file and both 8-bit files of a run, measured on the same examples."""

    def __init__(self, location: RunLocation, resources: ExitStack) -> None:
        self._run, self._request, self._resources = location.path, location.request, resources
        self._context = self._request.context
        self._dataset: Dataset = open_data(self._request)
        self._folder = resources.enter_context(writer.scratch_folder(_SCRATCH_BYTES))

    def write(self) -> None:
        plain, trained = self._open(self._source_of_student()), self._open(self._run)
        if not isinstance(trained, QuantizedNetwork):
            raise ModelError(f"{self._run}: the run has no ranges", hint="train it again: --overwrite")
        name = choose_metric(None, self._dataset.task, labelled=self._dataset.labelled)
        sources = {FLOAT: self._make_source(plain), TRAINED: self._make_source(trained)}
        sources[AFTER] = sources[FLOAT]
        assert self._dataset.validation is not None
        metrics = [self._make_metric(name, plain, self._dataset.validation)]
        if self._dataset.test is not None:
            metrics.append(self._make_metric(name, plain, self._dataset.test))
        forms = dict(zip((FLOAT, AFTER), choose_formats(["litert"], quantize=["none", "int8"]), strict=True))
        forms[TRAINED] = forms[AFTER]
        files = [self._convert(one, sources[one], forms[one], metrics) for one in (FLOAT, AFTER, TRAINED)]
        _, after, best = files
        # On a tie, the file quantized after training is picked: training gained nothing.
        sign = -1 if metrics[0].lower_is_better else 1
        picked = best if sign * (best.validation.value - after.validation.value) > 0 else after
        self._write_files(picked)
        self._write_document(files, picked, metrics[0], trained)

    def _source_of_student(self) -> Path:
        model = self._request.recipe.student.model
        return Path(getattr(model, "path", ""))

    def _open(self, model: Path) -> Network:
        file = open_evaluated_file(
            model,
            "student",
            request=self._request,
            dataset=self._dataset,
            threads=self._context.threads,
            opened=self._resources,
            on_event=lambda event: None,
        )
        return require_exportable(file.network)

    def _make_source(self, network: Network) -> ExportSource:
        assert self._dataset.validation is not None
        return make_source(
            network,
            self._dataset,
            self._dataset.validation,
            kind=choose_exported_kind(network, "teacher", teachers=[network.saved_kind]),
            seed=self._request.recipe.data_seed,
            batch_size=BATCH_SIZE,
            on_event=self._context.on_event,
        )

    def _make_metric(self, name: str, plain: Network, examples: Examples) -> PairedMetric:
        """The metric on a split, with the float32 model in the place of the teacher."""
        empty = PairedMetric(name, self._dataset.task, examples.all_labels(), np.zeros(0))
        _, logits = evaluate_split(plain, examples, task=self._dataset.task, on_event=self._context.on_event)
        return PairedMetric(name, self._dataset.task, examples.all_labels(), empty.reduce(logits))

    def _convert(self, name: str, source: ExportSource, form: Any, metrics: Sequence[PairedMetric]) -> _File:
        test = self._dataset.test
        stem = name.replace(", ", "-").replace(" ", "-")
        path = self._folder / f"{stem}{form.suffix}"
        converted = convert_source(form, source, path, context=self._context, resources=self._resources)
        size = count_file_bytes(converted.path)
        on_validation = measure(
            metrics[0], to_logits(converted.outputs, source.reference), split="validation", size=size, flops=None
        )
        on_test = None
        if test is not None:
            logits = compute_logits(converted, source, test)
            on_test = measure(metrics[1], logits, split="test", size=size, flops=None)
        return _File(name, source, converted, on_validation, on_test)

    def _write_files(self, picked: _File) -> None:
        writer.write_bytes(self._run / QUANTIZED_FILE, picked.converted.path.read_bytes())
        interface = describe_input(picked.converted, classes=picked.source.network.outputs)
        described = render_interface_files({QUANTIZED_FILE: interface}, picked.source.class_names)
        for name, text in described.items():
            writer.write_text(self._run / name, text)

    def _write_document(
        self, files: Sequence[_File], picked: _File, metric: PairedMetric, trained: QuantizedNetwork
    ) -> None:
        session = time_converted_files(
            [one.converted for one in files],
            self._dataset.train,
            teachers={},
            seed=self._request.recipe.data_seed,
            runtime=None,
            latency_command=None,
            on_event=self._context.on_event,
        )
        times = {one.name: find_p50_ms(one.converted, session) for one in files}
        document = {
            "schema": "kd.quantize/1",
            "student": STUDENT_FILE,
            "path": QUANTIZED_FILE,
            "picked": picked.name,
            "metric": metric.name,
            "model": {"validation": metric.measure_teacher()},
            "floats": list(trained.placement.floats),
            "files": [_describe(one, times, files[0], is_picked=one is picked) for one in files],
            "doubts": list(session.doubts()) if session is not None else [],
        }
        writer.write_text(self._run / QUANTIZATION_FILE, json.dumps(document, indent=2) + "\n")


def _measure_drop(before: Measured, after: Measured) -> float | None:
    """The loss of accuracy; None for a task without decisions."""
    if before.quality.accuracy is None or after.quality.accuracy is None:
        return None
    return before.quality.accuracy - after.quality.accuracy


def _describe(file: _File, times: Mapping[str, float | None], before: _File, *, is_picked: bool) -> dict[str, Any]:
    """A row of the table, with the metrics that gates may bound."""
    best = file.test or file.validation
    drop = {"value": best.drop, "low": best.low, "high": best.high}
    metrics = collect_metrics(best.quality, size=best.bytes, parameters=None)
    return {
        "name": file.name,
        "path": QUANTIZED_FILE if is_picked else None,
        "bytes": best.bytes,
        "validation": file.validation.value,
        "test": None if file.test is None else file.test.value,
        "low": best.quality.low,
        "high": best.quality.high,
        "agreement": best.quality.agreement,
        "drop": drop,
        "examples": best.quality.examples,
        "split": best.split,
        "p50_ms": times[file.name],
        "metrics": {**metrics, "export_drop": _measure_drop(before.test or before.validation, best)},
    }
