"""Size and latency of a student as an exported file, and the largest student that meets the targets."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from kdcli.artifacts.converted_file import write_file
from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.footprint import count_file_bytes, count_flops
from kdcli.evaluation.latency.command import time_by_command
from kdcli.evaluation.latency.measure import time_models
from kdcli.evaluation.latency.session_statistics import Session
from kdcli.evaluation.latency.subjects import make_requests
from kdcli.exports import EXPORT_FORMATS
from kdcli.exports.format_choice import choose_formats
from kdcli.models.batching import Runner
from kdcli.models.inference import copy_network, prepare_for_export
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import ServedModel
from kdcli.shrinking.search import SMALLEST_KEEP, find_largest
from kdcli.spec import ExportFormat
from kdcli.tensors import KerasModel

MEASURE_AS = "litert/int8"
# Seconds for which a candidate is timed, and both models of the table.
_SECONDS_EACH, _SECONDS_TOGETHER = 0.3, 2.0
_CALIBRATION_EXAMPLES = 8
# Bytes of one weight in a file, by variant.
_WEIGHT_BYTES = {"int8": 1, "dynamic": 1, "float16": 2}
# How often an estimate of a file's size or latency is corrected by a real file.
_CORRECTIONS = 4
# The search for a latency aims at this fraction of the bound, and ends above the other.
_AIM, _NEAR = 0.95, 0.9


def choose_measured_format(text: str) -> ExportFormat:
    """Read `--measure-as`: a format, and for litert its quantization, such as `litert/int8` or `onnx`.

    Raises:
        UsageError: an unknown format or quantization.
    """
    kind, _, quantize = text.partition("/")
    try:
        (form,) = choose_formats([kind], quantize=[quantize] if quantize else [])
    except UsageError as error:
        known = ", ".join(EXPORT_FORMATS)
        raise UsageError(
            f"--measure-as {text}: expected a format ({known}), and for litert a quantization",
            hint="--measure-as litert/int8",
        ) from error
    return form


@dataclass(frozen=True)
class CandidateFile:
    """A model in the measured format.

    Args:
        path: of the file in the scratch folder.
        serving: the model that was written.
        bytes: of the file.
    """

    path: Path
    serving: ServedModel
    bytes: int


class StudentCosts:
    """Measures models as files of one format, in its own runtime on this machine.

    Args:
        teacher: the network whose preprocessing and output kind students take; None if each names another one.
        form: the format.
        raw: raw examples by input name, for calibration and for requests.
        folder: a scratch folder.
        resources: closes the runtimes.
        threads: number of threads of the runtimes; their own default if None.
        seed: RNG seed for the order of the requests.
        latency_command: measures files in the place of this machine.
    """

    def __init__(
        self,
        teacher: KerasNetwork | None,
        form: ExportFormat,
        raw: Mapping[str, np.ndarray],
        *,
        folder: Path,
        resources: ExitStack,
        threads: int | None,
        seed: int,
        latency_command: str | None = None,
    ) -> None:
        self.teacher, self.form, self.raw = teacher, form, raw
        self._folder, self._resources, self._threads, self._seed = folder, resources, threads, seed
        self._latency_command = latency_command
        self._runners: dict[Path, Runner] = {}
        self._count = 0

    def wrap(self, model: KerasModel, *, like: KerasNetwork | None = None) -> KerasNetwork:
        """The network of a student, with the preprocessing and output kind of another network: the teacher's."""
        like = like or self.teacher
        assert like is not None
        name = like.output_name if len(like.all_outputs) > 1 else None
        network = KerasNetwork(model, name="student", output=name)
        return network.with_preprocessing(like.preprocessing).with_outputs_like(like)

    def write(self, network: KerasNetwork, *, name: str = "student") -> CandidateFile:
        """Convert a model.

        Args:
            network: the model.
            name: of the file, in messages.

        Raises:
            ModelError: it cannot be converted.
        """
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        path = folder / self.form.file_name(name)
        try:
            serving = self._convert(network, path, self.form.batch)
        except ModelError:
            if self.form.runtime == "tensorflow":
                raise
            serving = self._convert(network, path, 1)
        return CandidateFile(path, serving, count_file_bytes(self.form.find_file(path)))

    def _convert(self, network: KerasNetwork, path: Path, batch: int | None) -> ServedModel:
        kind = network.saved_kind
        # Preparing changes a network in place.
        copied = copy_network(network)
        _vary_constants(copied.model)
        prepared = prepare_for_export(copied, kind)
        # Size and latency do not depend on the ranges that a calibration finds.
        few = {name: examples[:_CALIBRATION_EXAMPLES] for name, examples in self.raw.items()}
        return write_file(self.form, prepared, path, True, kind, few, batch)

    def time(self, files: Mapping[str, CandidateFile], *, seconds: float = _SECONDS_TOGETHER) -> Session:
        """Time files in turns on this machine at batch 1, or by the latency command."""
        if self._latency_command is not None:
            return time_by_command(self._latency_command, {name: file.path for name, file in files.items()})
        return time_models(
            {name: self._open(file) for name, file in files.items()},
            {name: make_requests([file.serving.convert_examples(self.raw)], 1) for name, file in files.items()},
            seed=self._seed,
            seconds=seconds,
            warm_limit=2.0,
        )

    def time_alone(self, file: CandidateFile, *, seconds: float = _SECONDS_EACH) -> float:
        """The median latency of one file, in milliseconds."""
        return self.time({"candidate": file}, seconds=seconds).summarize("candidate").p50_ms

    def _open(self, file: CandidateFile) -> Runner:
        """The file in its runtime, opened once."""
        if file.path not in self._runners:
            runner: Runner = self.form.open(file.path, threads=self._threads)
            self._resources.callback(runner.close)
            self._runners[file.path] = runner
        return self._runners[file.path]


def _vary_constants(model: KerasModel) -> None:
    """Give weights that are all equal, as before training, the variety that they have afterwards.

    Converters leave out zeros and store equal values once, so the file of an untrained model is smaller.
    """
    generator = np.random.default_rng(0)
    for weight in model.weights:
        value = weight.numpy()
        if value.size > 1 and value.dtype.kind == "f" and (value == value.flat[0]).all():
            weight.assign(value + generator.uniform(0.01, 0.1, value.shape))


@dataclass(frozen=True, kw_only=True)
class ShrinkTargets:
    """Bounds that the student must meet; None for those that are not set.

    Args:
        max_params: number of parameters.
        max_mflops: millions of floating point operations for one example.
        max_size_mb: bytes of the file in the measured format, in 10^6.
        max_latency_ms: median latency of that file at batch 1.
    """

    max_params: int | None = None
    max_mflops: float | None = None
    max_size_mb: float | None = None
    max_latency_ms: float | None = None

    @property
    def are_set(self) -> bool:
        """Whether any bound is set."""
        return any(value is not None for value in vars(self).values())


_UNITS = {
    "--max-params": " parameters",
    "--max-mflops": " MFLOPs",
    "--max-size-mb": " MB",
    "--max-flash-kb": " KB",
    "--max-latency-ms": " ms",
    "--max-latency-ratio": "",
}


class UnreachableTarget(UsageError):
    """A target that even the smallest student misses.

    Args:
        option: the option of the target.
        bound: its value.
        value: that of the smallest student.
    """

    def __init__(self, option: str, bound: float, value: float) -> None:
        possible = f"{value:.0f}" if option == "--max-params" else f"{value * 1.05:.3g}"
        super().__init__(
            f"{option} {bound:.10g}: no student meets it; the smallest possible has {value:.6g}{_UNITS[option]}",
            hint=f"{option} {possible}",
        )
        self.option, self.bound, self.value = option, bound, value


class SizedStudents(Protocol):
    """Students of one family; the fraction of the channels of the largest one sets their size."""

    def count_parameters(self, keep: float) -> int:
        """The number of parameters of a student."""
        ...

    def identify(self, keep: float) -> Hashable:
        """Equal for fractions that give the same student."""
        ...

    def assemble(self, keep: float) -> KerasModel:
        """Build a student, enough to measure its cost."""
        ...


class TargetSearch:
    """Finds the largest student within targets, without training.

    Args:
        students: the students to choose from.
        targets: the bounds.
        costs: measures files.
        like: the network whose preprocessing the students have; the teacher if None.
    """

    def __init__(
        self,
        students: SizedStudents,
        targets: ShrinkTargets,
        costs: StudentCosts,
        *,
        like: KerasNetwork | None = None,
    ) -> None:
        self._students, self._targets, self._costs, self._like = students, targets, costs, like
        self._files: dict[Hashable, CandidateFile] = {}
        self._times: dict[Hashable, float] = {}
        # Bytes of a file beyond its weights.
        self._overhead = 0.0

    def find(self) -> float:
        """The fraction of the channels of the largest student that meets every bound.

        Raises:
            UsageError: the smallest student does not meet a bound; the message says what it has.
        """
        targets = self._targets
        bounds: list[tuple[str, float | None, Callable[[float], float]]] = [
            ("--max-params", targets.max_params, self._students.count_parameters),
            ("--max-mflops", targets.max_mflops, self._count_mflops),
        ]
        keep = self._search([bound for bound in bounds if bound[1] is not None], most=1.0)
        if targets.max_size_mb is not None:
            keep = self._search_size(keep, targets.max_size_mb)
        if targets.max_latency_ms is not None:
            keep = self._confirm_latency(
                self._search_latency(keep, targets.max_latency_ms), targets.max_latency_ms
            )
        return keep

    def open_file(self, keep: float) -> CandidateFile:
        """The file of a student; fractions that give the same student share one."""
        key = self._students.identify(keep)
        if key not in self._files:
            self._files[key] = self._costs.write(self.wrap(keep))
        return self._files[key]

    def wrap(self, keep: float) -> KerasNetwork:
        """A student behind its preprocessing."""
        return self._costs.wrap(self._students.assemble(keep), like=self._like)

    def _search(
        self, bounds: Sequence[tuple[str, float | None, Callable[[float], float]]], *, most: float
    ) -> float:
        def fits(keep: float) -> bool:
            return all(measure(keep) <= (bound or 0) for _, bound, measure in bounds)

        def explain(keep: float) -> UsageError:
            option, bound, measure = next(one for one in bounds if one[2](keep) > (one[1] or 0))
            return UnreachableTarget(option, bound or 0, measure(keep))

        return find_largest(fits, explain=explain, most=most)

    def _search_size(self, most: float, bound: float) -> float:
        """Search by estimated bytes, and correct the estimate by a real file until that file fits."""
        smallest = self._measure_megabytes(SMALLEST_KEEP)
        if smallest > bound:
            raise UnreachableTarget("--max-size-mb", bound, smallest)
        best = SMALLEST_KEEP
        for _ in range(_CORRECTIONS):
            keep = self._search([("--max-size-mb", bound, self._estimate_megabytes)], most=most)
            if self._measure_megabytes(keep) <= bound:
                if keep <= best:
                    break
                best = keep
            else:
                most = keep - SMALLEST_KEEP
            if most <= best:
                break
        return best

    def _search_latency(self, most: float, bound: float) -> float:
        """Search between a student that is fast enough and one that is not; latency grows with parameters."""
        if self.time(SMALLEST_KEEP) > bound:
            raise UnreachableTarget("--max-latency-ms", bound, self.time(SMALLEST_KEEP))
        if self.time(most) <= bound:
            return most
        low, high = SMALLEST_KEEP, most
        for _ in range(_CORRECTIONS):
            keep = self._interpolate(low, high, _AIM * bound)
            if self._students.identify(keep) in map(self._students.identify, (low, high)):
                break
            if self.time(keep) > bound:
                high = keep
                continue
            low = keep
            if self.time(keep) > _NEAR * bound:
                break
        return low

    def _confirm_latency(self, keep: float, bound: float) -> float:
        """Time the student that was found in full, and step down as long as it misses the bound."""
        for _ in range(_CORRECTIONS):
            key = self._students.identify(keep)
            self._times[key] = self._costs.time_alone(self.open_file(keep), seconds=_SECONDS_TOGETHER)
            if self._times[key] <= bound:
                break
            keep = self._search_latency(keep, bound)
        return keep

    def _interpolate(self, low: float, high: float, milliseconds: float) -> float:
        count, slow, fast = self._students.count_parameters, self.time(high), self.time(low)
        share = min(max((milliseconds - fast) / (slow - fast), 0.0), 1.0)
        wanted = count(low) + share * (count(high) - count(low))
        return find_largest(
            lambda keep: keep <= low or count(keep) <= wanted,
            explain=lambda keep: UnreachableTarget("--max-latency-ms", milliseconds, self.time(keep)),
            most=high,
        )

    def _count_mflops(self, keep: float) -> float:
        flops = count_flops(self.wrap(keep))
        if flops is None:
            raise UsageError("--max-mflops: the FLOPs of this model cannot be counted", hint="--max-params N")
        return flops / 1e6

    def _estimate_megabytes(self, keep: float) -> float:
        width = _WEIGHT_BYTES.get(self._costs.form.variant or "", 4)
        return (self._students.count_parameters(keep) * width + self._overhead) / 1e6

    def _measure_megabytes(self, keep: float) -> float:
        size = self.open_file(keep).bytes
        self._overhead += size - self._estimate_megabytes(keep) * 1e6
        return size / 1e6

    def time(self, keep: float) -> float:
        """The median latency of the file of a student, in milliseconds."""
        key = self._students.identify(keep)
        if key not in self._times:
            self._times[key] = self._costs.time_alone(self.open_file(keep))
        return self._times[key]
