"""An exported file: converted, opened again in its own runtime, compared, timed and described."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from kdcli.data.examples import Examples
from kdcli.errors import ModelError
from kdcli.evaluation.latency.command import time_by_command
from kdcli.evaluation.latency.measure import time_models
from kdcli.evaluation.latency.session_statistics import Session
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES, make_requests
from kdcli.evaluation.parity import Parity, Reference, compare_outputs, compute_outputs, make_file_function
from kdcli.events import Note, OnEvent, Progress
from kdcli.models.batching import Runner
from kdcli.models.keras.served_model import ServedModel, make_served_model
from kdcli.models.network import Network
from kdcli.models.preprocessing import scale_to_json
from kdcli.models.runtimes.child_process import FileRunner
from kdcli.models.runtimes.file_tensor import FileTensor
from kdcli.models.runtimes.micro import MicroRunner
from kdcli.quantization.network import QuantizedNetwork
from kdcli.quantization.served_model import round_served_model
from kdcli.recipe.gates import Gate
from kdcli.runs.export_results import ExportInterface
from kdcli.setup.teacher_file import TeacherFile
from kdcli.spec import ExportFormat

# Largest loss of a file: of accuracy; of equal decisions, without labels; of variance, for regression.
_MAX_DROP = 0.01
# Metrics that compare a file with its model; a file that fails a gate on one of them is deleted.
PARITY_METRICS = {
    "export_drop": "accuracy_drop",
    "export_agreement": "agreement",
    "unexplained": "unexplained",
    "max_abs_diff": "max_abs_diff",
}
# Approximate timing per file.
_SECONDS_PER_FILE = 2.0


@dataclass(frozen=True)
class ConvertedFile:
    """A file in the scratch folder.

    Args:
        format: format of the file.
        serving: the model that was written.
        path: path of the file.
        runner: the file, opened in its own runtime.
        outputs: of the file for the examples of the comparison, (n, ...).
        parity: differences from the model.
    """

    format: ExportFormat
    serving: ServedModel
    path: Path
    runner: Runner
    outputs: np.ndarray
    parity: Parity

    @property
    def ram_bytes(self) -> int | None:
        """Bytes of the tensor arena on a microcontroller; None for another format."""
        return self.runner.arena_bytes if isinstance(self.runner, MicroRunner) else None


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
    accepts: Callable[[ServedModel, Path], bool] | None = None,
    on_event: OnEvent,
) -> ConvertedFile:
    """Write a file (for batches of one if no other converts), open it in its own runtime, and compare it.

    Args:
        format: format of the file.
        network: the model.
        path: path of the file.
        inside: whether the preprocessing is part of the file.
        batch: the only batch size of the file, or None for any.
        calibration: raw training examples by input name, for formats that need them.
        examples: raw examples for the comparison.
        reference: the model's outputs for the examples.
        batch_size: number of examples in a batch.
        threads: number of threads the runtime uses.
        resources: closes the runtime.
        accepts: whether a file is good enough, for formats that search.
        on_event: receives notes and progress.

    Raises:
        ModelError: the model cannot be converted, or the file's outputs have another shape or are not finite.
    """
    on_event(Note(f"{path.name}: converting"))
    write = partial(write_file, format, network, path, inside, reference.kind, calibration, accepts=accepts)
    try:
        serving = write(format.batch or batch or network.batch or _find_fixed_batch(format, network))
    except ModelError:
        if batch or network.batch or format.runtime == "tensorflow":
            raise
        # If this fails too, its hint does not suggest --batch 1.
        serving = write(1)
        text = f"{path.name}: takes one example at a time, because larger batches cannot be converted"
        on_event(Note(text, warning=True))
    if description := format.describe(path):
        on_event(Note(f"{path.name}: {description}"))
    runner = format.open(path, threads=threads)
    resources.callback(runner.close)

    def report_progress(done: int) -> None:
        on_event(Progress("evaluation", done, len(examples), "examples"))

    function = make_file_function(runner.predict, serving)
    outputs = compute_outputs(function, examples, batch_size=batch_size, on_batch=report_progress)
    _check_outputs(outputs, reference, name=path.name)
    return ConvertedFile(format, serving, path, runner, outputs, compare_outputs(outputs, reference))


def _find_fixed_batch(format: ExportFormat, network: Network) -> int | None:
    return 1 if format.is_int8 and isinstance(network, QuantizedNetwork) and network.converts_single else None


def write_file(
    format: ExportFormat,
    network: Network,
    path: Path,
    inside: bool,
    output_kind: str,
    calibration: Mapping[str, np.ndarray] | None,
    batch: int | None,
    *,
    accepts: Callable[[ServedModel, Path], bool] | None = None,
) -> ServedModel:
    """Write a network to a file; arguments as in `convert_file`, with the output kind of the file."""
    serving = make_served_model(
        network,
        include_preprocessing=inside,
        batch=batch,
        floats=format.takes_floats,
        output_kind=output_kind,
    )
    if format.is_int8 and isinstance(network, QuantizedNetwork):
        serving = round_served_model(serving, network)
    elif format.from_data and calibration is not None:
        serving = serving.shown(calibration)
    if accepts is not None:
        serving = replace(serving, accepts=partial(accepts, serving))
    format.write(serving, path)
    return serving


def _check_outputs(outputs: np.ndarray, reference: Reference, *, name: str) -> None:
    expected = reference.outputs.shape
    if outputs.shape != expected:
        raise ModelError(f"{name}: the outputs have shape {outputs.shape}, those of the model {expected}")
    if not np.isfinite(outputs).all():
        raise ModelError(f"{name}: gives NaN or infinity where the model does not")


def add_parity_gates(gates: Sequence[Gate], *, task: str | None, labelled: bool) -> tuple[Gate, ...]:
    """The gates, and the gates on parity that every file must pass to be kept.

    Args:
        gates: the requested gates, which replace the default gate of the same metric.
        task: task of the data; None without data.
        labelled: whether the examples have labels.
    """
    if task is None:
        return tuple(gates)
    default = Gate("unexplained" if task == "regression" else "export_drop", "<=", _MAX_DROP)
    others = [gate for gate in gates if gate.metric != default.metric]
    drops = [gate for gate in gates if gate.metric == default.metric] or [default]
    if task == "regression" or labelled:
        return (*others, *drops)
    # Without labels, changed decisions count instead of accuracy.
    requested = [gate for gate in others if gate.metric == "export_agreement"]
    agreements = requested or [Gate("export_agreement", ">=", 1 - drop.bound) for drop in drops]
    return (*(gate for gate in others if gate not in requested), *agreements)


def collect_parity_metrics(parity: Parity) -> dict[str, float | None]:
    """The metrics of `PARITY_METRICS`."""
    return {name: getattr(parity, field) for name, field in PARITY_METRICS.items()}


def collect_gate_metrics(
    made: ConvertedFile, size: int, session: Session | None, against: Mapping[str, str]
) -> dict[str, float | None]:
    """The metrics of a file that gates may bound.

    Args:
        made: the file.
        size: bytes of the file.
        session: the latency session, or None.
        against: name in the session of the teacher's file of the same format, by file name.
    """
    parity = made.parity
    metrics: dict[str, float | None] = {
        "accuracy": parity.accuracy,
        "accuracy_drop": parity.teacher_drop,
        "agreement": parity.teacher_agreement,
        "size_mb": size / 1e6,
        **collect_parity_metrics(parity),
    }
    if made.ram_bytes is not None:
        metrics |= {"ram_kb": made.ram_bytes / 1024, "flash_kb": size / 1024}
    p50 = find_p50_ms(made, session)
    if session is None or p50 is None:
        return metrics
    teacher = against.get(made.path.name)
    ratio = None if teacher is None else session.ratio(made.path.name, teacher).value
    return {**metrics, "latency_ms": p50, "latency_ratio": ratio}


def time_converted_files(
    files: Sequence[ConvertedFile],
    examples: Examples,
    *,
    teachers: Mapping[str, TeacherFile],
    seed: int,
    runtime: str | None,
    latency_command: str | None,
    on_event: OnEvent,
) -> Session | None:
    """Time files in turns, at batch 1 or their fixed batch size; None if no file uses the runtime.

    A latency command takes the place of this machine.
    """
    timed = {
        made.path.name: made for made in files if made.format.is_timed and runtime in (None, made.format.runtime)
    }
    if not timed:
        return None
    if latency_command is not None:
        paths = {name: made.path for name, made in timed.items()}
        return time_by_command(latency_command, paths | {name: one.path for name, one in teachers.items()})
    raw = examples.take(np.arange(min(POOL_EXAMPLES, len(examples))))
    entrants: dict[str, ConvertedFile | TeacherFile] = {**timed, **teachers}
    # Files of another fixed batch size run as often as a request needs.
    batch = files[0].serving.batch or 1
    return time_models(
        {name: one.runner for name, one in entrants.items()},
        {name: make_requests([one.serving.convert_examples(raw)], batch) for name, one in entrants.items()},
        seed=seed,
        seconds=_SECONDS_PER_FILE * len(entrants),
        on_event=on_event,
    )


def find_p50_ms(made: ConvertedFile, session: Session | None) -> float | None:
    """The median latency of one request in milliseconds; None if the file was not timed."""
    if session is None or made.path.name not in session.subjects:
        return None
    return session.summarize(made.path.name).p50_ms


def describe_input(made: ConvertedFile, *, classes: int) -> ExportInterface:
    """What a user of the file must know: an entry of `input.json`."""
    serving, runner = made.serving, made.runner
    preprocessing = serving.preprocessing
    dtype, output_dtype = serving.dtype, "float32"
    quantization: dict[str, float] | None = None
    output_quantization: dict[str, float] | None = None
    if isinstance(runner, FileRunner):
        dtype, output_dtype = runner.input.dtype, runner.output.dtype
        quantization, output_quantization = (
            _describe_quantization(runner.input),
            _describe_quantization(runner.output),
        )
    return ExportInterface(
        shape=serving.shape,
        dtype=dtype,
        range=serving.value_range,
        batch=serving.batch,
        prepare="inside" if serving.inside else "outside",
        scale=scale_to_json(preprocessing.scale) if preprocessing.is_scaled else None,
        resize=preprocessing.size,
        fit=preprocessing.fit if preprocessing.size else None,
        quantization=quantization,
        output_kind=serving.output_kind,
        output_dtype=output_dtype,
        output_quantization=output_quantization,
        classes=classes,
    )


def _describe_quantization(tensor: FileTensor) -> dict[str, float] | None:
    if not tensor.is_integer or tensor.scale is None:
        return None
    return {"scale": tensor.scale, "zero_point": tensor.zero_point}
