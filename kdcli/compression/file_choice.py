"""The file that ships: a finished candidate, quantized as far as the targets allow, and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kdcli.artifacts.converted_file import ConvertedFile, describe_input
from kdcli.artifacts.export_source import ExportSource, make_source, require_exportable
from kdcli.compression.measurement import BATCH_SIZE, Measured, compute_logits, convert_source, measure
from kdcli.compression.request import CompressRequest
from kdcli.compression.subject import SearchSubject
from kdcli.compression.teacher_latency import open_search_teacher
from kdcli.errors import KdError, ModelError, TrainingError
from kdcli.evaluation.footprint import count_file_bytes, count_flops
from kdcli.evaluation.gates import collect_metrics, judge_gates
from kdcli.evaluation.latency.command import time_by_command
from kdcli.evaluation.latency.measure import time_models
from kdcli.evaluation.latency.session_statistics import Session
from kdcli.evaluation.parity import to_logits
from kdcli.events import Note
from kdcli.models.inference import choose_exported_kind
from kdcli.models.network import Network
from kdcli.quantization.network import QuantizedNetwork
from kdcli.recipe.gates import Gate
from kdcli.runs.export_results import ExportInterface
from kdcli.runs.gate_results import GateResult
from kdcli.setup.teacher_file import TeacherFile
from kdcli.spec import ExportFormat

# A file without a bound on quality is quantized as long as it loses at most this much against its own model.
_MAX_QUANTIZATION_DROP = 0.01
_SECONDS_PER_FILE = 2.0
TEACHER = "the teacher"
_COSTS = {"size_mb", "flops", "latency_ms", "latency_ratio", "ram_kb", "flash_kb"}


@dataclass(frozen=True, kw_only=True)
class FinalFile:
    """A file of a finished candidate.

    Args:
        candidate: its name.
        converted: the file in the scratch folder.
        source: its model.
        interface: what a user of the file must know.
        on_validation: measured on the validation split.
        gates: judged on it.
        keeps_quality: whether quantization cost little.
    """

    candidate: str
    converted: ConvertedFile
    source: ExportSource
    interface: ExportInterface
    on_validation: Measured
    gates: tuple[GateResult, ...]
    keeps_quality: bool

    @property
    def meets_targets(self) -> bool:
        """Whether every target holds on the validation split."""
        return all(gate.state != "failed" for gate in self.gates)

    @property
    def passes(self) -> bool:
        """Whether every target holds, and quantization cost little where no target bounds the quality."""
        return self.meets_targets and self.keeps_quality

    @property
    def is_trained_for_int8(self) -> bool:
        """Whether it comes from quantization-aware training."""
        return isinstance(self.source.network, QuantizedNetwork)

    @property
    def misses_only_quality(self) -> bool:
        """Whether it misses a target, but none on the cost."""
        failed = {gate.name for gate in self.gates if gate.state == "failed"}
        return not self.passes and not failed & _COSTS

    @property
    def misses(self) -> float:
        """By how much the targets are missed, relative to their bounds, summed over them."""
        total = 0.0
        for gate in self.gates:
            if gate.state == "failed" and gate.value is not None:
                bound = float(gate.bound.split()[-1])
                total += abs(gate.value - bound) / max(abs(bound), 1e-3)
            elif gate.state == "failed":
                total += 1.0
        return total


class FileChoice:
    """Converts finished candidates, and chooses the file.

    Args:
        subject: data and teacher.
        compress: targets and format.
        max_drop: the bound on the drop; None without one.
        folder: a scratch folder.
        resources: closes the runtimes.
        latencies: measured before, by name of the file; extended by what is measured.
    """

    def __init__(
        self,
        subject: SearchSubject,
        compress: CompressRequest,
        *,
        max_drop: float | None,
        folder: Path,
        resources: ExitStack,
        latencies: dict[str, dict[str, Any]],
    ) -> None:
        self._subject, self._compress, self._max_drop = subject, compress, max_drop
        self._folder, self._resources, self.latencies = folder, resources, latencies
        self._context = subject.request.context
        self._teacher: TeacherFile | None = None

    def convert(
        self, name: str, network: Network, *, train_quantized: Callable[[], Network | None] = lambda: None
    ) -> list[FinalFile]:
        """The files of a candidate from the smallest quantization on, until one meets every target on validation.

        Args:
            name: of the candidate.
            network: its trained model behind its preprocessing.
            train_quantized: trains it further with the rounding of its 8-bit file, if that file misses only the
                quality; returns None where there is no time for it.

        Raises:
            ModelError: no quantization converts.
        """
        files: list[FinalFile] = []
        failure = None
        source, flops = self._make_source(network), count_flops(network)
        for form in self._compress.forms:
            try:
                files.append(self._convert_one(f"{name}-{form.variant or 'file'}", name, form, source, flops))
            except ModelError as error:
                failure = failure or error
                self._context.on_event(Note(f"{name}: {error.message}", warning=True))
                continue
            if form.from_data and files[-1].misses_only_quality:
                trained = self._convert_trained(name, form, train_quantized, flops, before=files[-1])
                # The better file comes first where none passes.
                files[-1:] = [*trained, files[-1]] if trained and not trained[0].passes else [files[-1], *trained]
            if files[-1].passes:
                break
        if failure is not None and not files:
            raise failure
        return files

    def _convert_trained(
        self,
        name: str,
        form: ExportFormat,
        train_quantized: Callable[[], Network | None],
        flops: int | None,
        *,
        before: FinalFile,
    ) -> list[FinalFile]:
        """The file of quantization-aware training, if it is better on validation than the one before."""
        try:
            network = train_quantized()
            if network is None:
                return []
            source = self._make_source(network)
            file = self._convert_one(f"{name}-{form.variant}-trained", name, form, source, flops)
        except (ModelError, TrainingError) as error:
            self._context.on_event(Note(f"{name}: {error.message}", warning=True))
            return []
        metric = self._subject.metric
        gain = file.on_validation.value - before.on_validation.value
        text = f"{name}: int8 {metric.name} {before.on_validation.value:.4f} after training"
        trained = f"{file.on_validation.value:.4f} after quantization-aware training"
        self._context.on_event(Note(f"{text}, {trained}"))
        return [file] if (-gain if metric.lower_is_better else gain) > 0 else []

    def _make_source(self, network: Network) -> ExportSource:
        subject = self._subject
        network = require_exportable(network)
        # The file gives what the teacher's file gives, whichever student won.
        kinds = [one.network.saved_kind for one in subject.teachers]
        kind = choose_exported_kind(network, "teacher", teachers=kinds)
        return make_source(
            network,
            subject.dataset,
            subject.validation,
            kind=kind,
            seed=subject.request.recipe.data_seed,
            batch_size=BATCH_SIZE,
            on_event=self._context.on_event,
        )

    def _convert_one(
        self, stem: str, name: str, form: ExportFormat, source: ExportSource, flops: int | None
    ) -> FinalFile:
        path = self._folder / f"{stem}{form.suffix}"
        converted = convert_source(form, source, path, context=self._context, resources=self._resources)
        return self._measure_file(name, converted, source, flops)

    def _keeps_quality(self, converted: ConvertedFile) -> bool:
        """Whether quantization cost little, where no target bounds the quality."""
        parity = converted.parity
        losses = [parity.accuracy_drop, parity.unexplained]
        if parity.accuracy_drop is None and parity.agreement is not None:
            losses.append(1 - parity.agreement)
        bounded = self._max_drop is not None or bool(self._compress.gates)
        return bounded or all(lost is None or lost <= _MAX_QUANTIZATION_DROP for lost in losses)

    def _measure_file(
        self, name: str, converted: ConvertedFile, source: ExportSource, flops: int | None
    ) -> FinalFile:
        logits = to_logits(converted.outputs, source.reference)
        size = count_file_bytes(converted.format.find_file(converted.path))
        measured = measure(self._subject.metric, logits, split="validation", size=size, flops=flops)
        measured = replace(measured, ram_bytes=converted.ram_bytes)
        if self._is_small(measured) and self._compress.targets.timed:
            measured = self.add_latency(measured, converted)
        return FinalFile(
            candidate=name,
            converted=converted,
            source=source,
            interface=describe_input(converted, classes=source.network.outputs),
            on_validation=measured,
            gates=self.judge(measured, name=converted.path.name),
            keeps_quality=self._keeps_quality(converted),
        )

    def _is_small(self, measured: Measured) -> bool:
        limit = self._compress.targets.max_size_mb
        return limit is None or measured.bytes <= limit * 1e6

    def add_latency(self, measured: Measured, converted: ConvertedFile) -> Measured:
        """Time a file in turns with the teacher in the same runtime; each file is timed only once.

        A file for another device is timed only by a latency command.
        """
        if not converted.format.is_timed and self._compress.latency_command is None:
            return measured
        key = converted.path.name
        if key not in self.latencies:
            self.latencies[key] = self._time(converted)
        known = self.latencies[key]
        return replace(measured, **{**known, "doubts": tuple(known["doubts"])})

    def _time(self, converted: ConvertedFile) -> dict[str, Any]:
        teacher = self._open_teacher(converted)
        self._context.on_event(Note(f"{converted.path.name}: measuring latency"))
        entrants = {"file": TeacherFile(converted.path, converted.serving, converted.runner)}
        if teacher is not None:
            entrants[TEACHER] = teacher
        session = self._run_session(entrants, batch=converted.serving.batch or 1)
        timed = session.summarize("file").to_json()
        known: dict[str, Any] = {"latency": timed, "doubts": list(session.doubts())}
        if teacher is None:
            return known
        return {
            **known,
            "teacher_latency": session.summarize(TEACHER).to_json(),
            "teacher_bytes": count_file_bytes(teacher.path),
            "ratio": session.ratio("file", TEACHER).to_json(),
        }

    def _run_session(self, entrants: Mapping[str, TeacherFile], *, batch: int) -> Session:
        command = self._compress.latency_command
        if command is not None:
            return time_by_command(command, {name: one.path for name, one in entrants.items()})
        raw = self._subject.timed_examples
        made = {name: one.at_batch(raw)(batch) for name, one in entrants.items()}
        return time_models(
            {name: subject for name, (subject, _) in made.items()},
            {name: pool for name, (_, pool) in made.items()},
            seed=self._subject.request.recipe.data_seed,
            seconds=_SECONDS_PER_FILE * len(entrants),
            on_event=self._context.on_event,
        )

    def _open_teacher(self, converted: ConvertedFile) -> TeacherFile | None:
        """The teacher in float32 in the runtime of the file; None for an ensemble or if it is not convertible."""
        subject = self._subject
        if len(subject.teachers) > 1:
            return None
        if self._teacher is None:
            try:
                self._teacher = open_search_teacher(subject, self._compress, self._resources)
            except KdError as error:
                self._context.on_event(Note(f"the teacher is not timed: {error.message}", warning=True))
        return self._teacher

    def judge(self, measured: Measured, *, name: str, strict: bool = False) -> tuple[GateResult, ...]:
        """Judge a file by every target and gate.

        Args:
            measured: its cost and quality.
            name: what the results call the file.
            strict: whether a drop must be shown by its interval.
        """
        targets = self._compress.targets
        bounds = {
            "size_mb": targets.max_size_mb,
            "flops": None if targets.max_mflops is None else targets.max_mflops * 1e6,
            "ram_kb": targets.max_ram_kb,
            "flash_kb": targets.max_flash_kb,
            "latency_ms": targets.max_latency_ms,
            "latency_ratio": targets.max_latency_ratio,
        }
        gates = [Gate(metric, "<=", bound) for metric, bound in bounds.items() if bound is not None]
        values = collect_metrics(measured.quality, size=measured.bytes, parameters=None, flops=measured.flops)
        values |= {
            "latency_ms": (measured.latency or {}).get("p50_ms"),
            "latency_ratio": (measured.ratio or {}).get("value"),
        }
        if measured.ram_bytes is not None:
            values |= {"ram_kb": measured.ram_bytes / 1024, "flash_kb": measured.bytes / 1024}
        results = judge_gates((*gates, *self._compress.gates), {name: values}, doubts=measured.doubts)
        return (*results, *self._judge_drop(measured, name=name, strict=strict))

    def _judge_drop(self, measured: Measured, *, name: str, strict: bool) -> list[GateResult]:
        """The drop, and whether so many examples show that it is within its bound."""
        if self._max_drop is None:
            return []
        state: Literal["passed", "failed", "inconclusive"] = "failed"
        shown = measured.high <= self._max_drop
        if Gate("accuracy_drop", "<=", self._max_drop).holds(measured.drop):
            state = "passed" if shown or not strict else "inconclusive"
        count = measured.quality.examples
        reason = f"{'shown' if shown else 'not shown'} by {count:,} examples" if state != "failed" else ""
        label = f"{self._subject.metric.name}_drop"
        return [GateResult(label, measured.drop, f"<= {self._max_drop:.10g}", state, name, reason)]

    def measure_on_test(self, file: FinalFile) -> Measured:
        """Measure the chosen file on the test split, which is read here and nowhere else."""
        subject, test = self._subject, self._subject.dataset.test
        metric = subject.test_metric
        if test is None or metric is None:
            return file.on_validation
        logits = compute_logits(file.converted, file.source, test)
        before = file.on_validation
        measured = measure(metric, logits, split="test", size=before.bytes, flops=before.flops)
        measured = replace(measured, ram_bytes=before.ram_bytes)
        return self.add_latency(measured, file.converted)


def choose_file(files: Sequence[FinalFile]) -> FinalFile:
    """The first file that passes, else the first that meets the targets, else the one that misses them least."""
    found = [file for file in files if file.passes] or [file for file in files if file.meets_targets]
    return found[0] if found else min(files, key=lambda file: file.misses)
