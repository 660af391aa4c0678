"""One exported file: converted, opened again in its own runtime, compared, described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.errors import ModelError
from kdcli.evaluation.latency.measure import time_models
from kdcli.evaluation.latency.session import Session
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES, make_requests
from kdcli.evaluation.parity import Parity, Reference, compare_outputs, compute_outputs, make_file_function
from kdcli.events import Note, OnEvent, Progress
from kdcli.models.batching import Runner
from kdcli.models.keras.serving import ServedModel, make_served_model
from kdcli.models.network import Network
from kdcli.models.preprocessing import scale_to_json
from kdcli.models.runtimes.file_tensor import FileTensor
from kdcli.models.runtimes.runner import FileRunner
from kdcli.recipe.gates import Gate
from kdcli.runs.export_results import ExportInterface
from kdcli.setup.teacher_file import TeacherFile
from kdcli.spec import ExportFormat

# How much of the accuracy a file may lose; of decisions where there are no labels; of values, of their variance.
_MAX_DROP = 0.01
# About how long files are timed, for each of them.
_SECONDS_PER_FILE = 2.0


@dataclass(frozen=True)
class ConvertedFile:
    """A file in the scratch folder.

    Args:
        format: that it was written as.
        serving: what was written.
        path: where it is.
        runner: its own runtime, with it opened.
        parity: how close it is to the model.
    """

    format: ExportFormat
    serving: ServedModel
    path: Path
    runner: Runner
    parity: Parity


def convert_file(
    format: ExportFormat,
    network: Network,
    path: Path,
    *,
    inside: bool,
    batch: int | None,
    calibration: dict[str, np.ndarray] | None,
    examples: Examples,
    reference: Reference,
    batch_size: int,
    threads: int | None,
    resources: ExitStack,
    on_event: OnEvent,
) -> ConvertedFile:
    """Write a file, open it as others would, and compare it with the model.

    What cannot be converted for any batch size is tried with batches of one.

    Args:
        calibration: raw training examples, for formats that look at them.
        examples: what both answer.
        resources: closes the reader.

    Raises:
        ModelError: the model cannot be converted, or its file answers NaN or not as many values as the model.
    """
    on_event(Note(f"{path.name}: converting"))

    def write(size: int | None) -> ServedModel:
        serving = make_served_model(
            network,
            include_preprocessing=inside,
            batch=size,
            floats=format.takes_floats,
            output_kind=reference.kind,
        )
        if format.from_data and calibration is not None:
            serving = serving.shown(calibration)
        format.write(serving, path)
        return serving

    try:
        serving = write(batch or network.batch)
    except ModelError:
        if batch or network.batch or format.runtime == "tensorflow":
            raise
        # Where this fails too, its hint no longer names --batch 1.
        serving = write(1)
        text = f"{path.name}: takes one example at a time: it cannot be converted for batches of any size"
        on_event(Note(text, warning=True))
    runner = format.open(path, threads=threads)
    resources.callback(runner.close)

    def told(done: int) -> None:
        on_event(Progress("evaluation", done, len(examples), "examples"))

    outputs = compute_outputs(
        make_file_function(runner.predict, serving), examples, batch_size=batch_size, on_batch=told
    )
    if outputs.shape != reference.outputs.shape:
        raise ModelError(f"{path.name}: answers {outputs.shape}, the model {reference.outputs.shape}")
    if not np.isfinite(outputs).all():
        raise ModelError(f"{path.name}: answers NaN or infinity where the model does not")
    return ConvertedFile(format, serving, path, runner, compare_outputs(outputs, reference))


def add_parity_gates(gates: Sequence[Gate], *, task: str | None, labelled: bool) -> tuple[Gate, ...]:
    """The gates with those that every file must pass to be left behind."""
    if task is None:
        return tuple(gates)
    default = Gate("unexplained" if task == "regression" else "export_drop", "<=", _MAX_DROP)
    others = [gate for gate in gates if gate.metric != default.metric]
    held = [gate for gate in gates if gate.metric == default.metric] or [default]
    if task == "regression" or labelled:
        return (*others, *held)
    # Without labels nobody knows what is right: what changes counts.
    own = [gate for gate in others if gate.metric == "export_agreement"]
    changed = own or [Gate("export_agreement", ">=", 1 - drop.bound) for drop in held]
    return (*(gate for gate in others if gate not in own), *changed)


def collect_gate_metrics(
    made: ConvertedFile, size: int, session: Session | None, against: Mapping[str, str]
) -> dict[str, float | None]:
    """What gates know of a file.

    Args:
        session: in which it was timed.
        against: the name in it of the teacher as a file of the same format, by the file's name.
    """
    parity = made.parity
    known: dict[str, float | None] = {
        "accuracy": parity.accuracy,
        "accuracy_drop": parity.teacher_drop,
        "agreement": parity.teacher_agreement,
        "export_drop": parity.accuracy_drop,
        "export_agreement": parity.agreement,
        "unexplained": parity.unexplained,
        "max_abs_diff": parity.max_abs_diff,
        "size_mb": size / 1e6,
    }
    p50 = find_p50_ms(made, session)
    if session is None or p50 is None:
        return known
    teacher = against.get(made.path.name)
    ratio = None if teacher is None else session.ratio(made.path.name, teacher).value
    return {**known, "latency_ms": p50, "latency_ratio": ratio}


def time_converted_files(
    files: Sequence[ConvertedFile],
    examples: Examples,
    *,
    teachers: Mapping[str, TeacherFile],
    seed: int,
    runtime: str | None,
    on_event: OnEvent,
) -> Session | None:
    """Time files in turns at batch 1, or at the only batch that they take; None where none is of the runtime."""
    timed = {made.path.name: made for made in files if runtime in (None, made.format.runtime)}
    if not timed:
        return None
    raw = examples.take(np.arange(min(POOL_EXAMPLES, len(examples))))
    entrants: dict[str, ConvertedFile | TeacherFile] = {**timed, **teachers}
    # A file for one batch size is asked as often as a request needs.
    batch = files[0].serving.batch or 1
    return time_models(
        {name: one.runner for name, one in entrants.items()},
        {name: make_requests([one.serving.convert_examples(raw)], batch) for name, one in entrants.items()},
        seed=seed,
        seconds=_SECONDS_PER_FILE * len(entrants),
        on_event=on_event,
    )


def find_p50_ms(made: ConvertedFile, session: Session | None) -> float | None:
    """The median of one request in milliseconds; None where it was not timed."""
    if session is None or made.path.name not in session.subjects:
        return None
    return session.summarize(made.path.name).p50_ms


def describe_input(made: ConvertedFile, *, classes: int) -> ExportInterface:
    """What somebody who uses the file must know."""
    serving, runner = made.serving, made.runner
    preparation = serving.preprocessing
    dtype, output_dtype = serving.dtype, "float32"
    quantization: Any = None
    output_quantization: Any = None
    if isinstance(runner, FileRunner):
        dtype, output_dtype = runner.input.dtype, runner.output.dtype
        quantization, output_quantization = _quantization(runner.input), _quantization(runner.output)
    return ExportInterface(
        shape=serving.shape,
        dtype=dtype,
        range=serving.value_range,
        batch=serving.batch,
        prepare="inside" if serving.inside else "outside",
        scale=scale_to_json(preparation.scale) if preparation.is_scaled else None,
        resize=preparation.size,
        fit=preparation.fit if preparation.size else None,
        quantization=quantization,
        output_kind=serving.output_kind,
        output_dtype=output_dtype,
        output_quantization=output_quantization,
        classes=classes,
    )


def _quantization(tensor: FileTensor) -> dict[str, float] | None:
    if not tensor.is_integer or tensor.scale is None:
        return None
    return {"scale": tensor.scale, "zero_point": tensor.zero_point}
