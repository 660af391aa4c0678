"""Size and latency of a student as an exported file, and the largest student that meets the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcli.artifacts.converted_file import write_file
from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.footprint import count_file_bytes, count_flops
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
from kdcli.shrinking.shrink import Shrinker
from kdcli.spec import ExportFormat
from kdcli.tensors import KerasModel

MEASURE_AS = "litert/int8"
# Seconds for which a candidate is timed, and both models of the table.
_SECONDS_EACH, _SECONDS_TOGETHER = 0.5, 2.0
# Bytes of one weight in a file, by variant.
_WEIGHT_BYTES = {"int8": 1, "dynamic": 1, "float16": 2}
# How often the estimate of a file's size is corrected by a real file.
_CORRECTIONS = 4


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
        serving: the model that was written.
        bytes: of the file.
        runner: the file, opened in its runtime.
    """

    serving: ServedModel
    bytes: int
    runner: Runner


class StudentCosts:
    """Measures models as files of one format, in its own runtime on this machine.

    Args:
        teacher: the teacher; students take its preprocessing and its output kind.
        form: the format.
        raw: raw examples by input name, for calibration and for requests.
        folder: a scratch folder.
        resources: closes the runtimes.
        threads: number of threads of the runtimes; their own default if None.
        seed: RNG seed for the order of the requests.
    """

    def __init__(
        self,
        teacher: KerasNetwork,
        form: ExportFormat,
        raw: Mapping[str, np.ndarray],
        *,
        folder: Path,
        resources: ExitStack,
        threads: int | None,
        seed: int,
    ) -> None:
        self.teacher, self.form, self.raw = teacher, form, raw
        self._folder, self._resources, self._threads, self._seed = folder, resources, threads, seed
        self._count = 0

    def wrap(self, model: KerasModel) -> KerasNetwork:
        """The network of a student, with the teacher's preprocessing and output kind."""
        name = self.teacher.output_name if len(self.teacher.all_outputs) > 1 else None
        network = KerasNetwork(model, name="student", output=name)
        return network.with_preprocessing(self.teacher.preprocessing).with_outputs_like(self.teacher)

    def write(self, network: KerasNetwork, *, name: str = "student") -> CandidateFile:
        """Convert a model, and open the file.

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
            serving = self._convert(network, path, None)
        except ModelError:
            if self.form.runtime == "tensorflow":
                raise
            serving = self._convert(network, path, 1)
        runner = self.form.open(path, threads=self._threads)
        self._resources.callback(runner.close)
        return CandidateFile(serving, count_file_bytes(path), runner)

    def _convert(self, network: KerasNetwork, path: Path, batch: int | None) -> ServedModel:
        kind = network.saved_kind
        # Preparing changes a network in place.
        prepared = prepare_for_export(copy_network(network), kind)
        return write_file(self.form, prepared, path, True, kind, self.raw, batch)

    def time(self, files: Mapping[str, CandidateFile], *, seconds: float = _SECONDS_TOGETHER) -> Session:
        """Time files in turns, at batch 1."""
        return time_models(
            {name: file.runner for name, file in files.items()},
            {name: make_requests([file.serving.convert_examples(self.raw)], 1) for name, file in files.items()},
            seed=self._seed,
            seconds=seconds,
            warm_limit=2.0,
        )

    def time_alone(self, file: CandidateFile) -> float:
        """The median latency of one file, in milliseconds."""
        return self.time({"candidate": file}, seconds=_SECONDS_EACH).summarize("candidate").p50_ms


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


def _explain_smallest(option: str, bound: float, value: float) -> UsageError:
    """The error for a target that even the smallest student misses."""
    possible = f"{value:.0f}" if option == "--max-params" else f"{value * 1.05:.3g}"
    return UsageError(
        f"{option} {bound:.10g}: no student meets it; the smallest possible has {value:.6g}",
        hint=f"{option} {possible}",
    )


class TargetSearch:
    """Finds the largest student within targets, without training.

    Args:
        shrinker: builds the students.
        targets: the bounds.
        costs: measures files.
    """

    def __init__(self, shrinker: Shrinker, targets: ShrinkTargets, costs: StudentCosts) -> None:
        self._shrinker, self._targets, self._costs = shrinker, targets, costs
        self._files: dict[tuple[int, ...], CandidateFile] = {}
        # Bytes of a file beyond its weights.
        self._overhead = 0.0

    def find(self) -> float:
        """The fraction of the channels of the largest student that meets every bound.

        Raises:
            UsageError: the smallest student does not meet a bound; the message says what it has.
        """
        targets = self._targets
        bounds: list[tuple[str, float | None, Callable[[float], float]]] = [
            ("--max-params", targets.max_params, self._shrinker.count_parameters),
            ("--max-mflops", targets.max_mflops, self._count_mflops),
        ]
        keep = self._search([bound for bound in bounds if bound[1] is not None], most=1.0)
        if targets.max_size_mb is not None:
            keep = self._search_size(keep, targets.max_size_mb)
        if targets.max_latency_ms is not None:
            keep = self._search([("--max-latency-ms", targets.max_latency_ms, self._time)], most=keep)
        return keep

    def _search(
        self, bounds: Sequence[tuple[str, float | None, Callable[[float], float]]], *, most: float
    ) -> float:
        def fits(keep: float) -> bool:
            return all(measure(keep) <= (bound or 0) for _, bound, measure in bounds)

        def explain(keep: float) -> UsageError:
            option, bound, measure = next(one for one in bounds if one[2](keep) > (one[1] or 0))
            return _explain_smallest(option, bound or 0, measure(keep))

        return find_largest(fits, explain=explain, most=most)

    def _search_size(self, most: float, bound: float) -> float:
        """Search by estimated bytes, and correct the estimate by a real file until that file fits."""
        smallest = self._measure_megabytes(SMALLEST_KEEP)
        if smallest > bound:
            raise _explain_smallest("--max-size-mb", bound, smallest)
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

    def _count_mflops(self, keep: float) -> float:
        flops = count_flops(self._costs.wrap(self._shrinker.assemble(keep)))
        if flops is None:
            raise UsageError("--max-mflops: the FLOPs of this model cannot be counted", hint="--max-params N")
        return flops / 1e6

    def _estimate_megabytes(self, keep: float) -> float:
        width = _WEIGHT_BYTES.get(self._costs.form.variant or "", 4)
        return (self._shrinker.count_parameters(keep) * width + self._overhead) / 1e6

    def _measure_megabytes(self, keep: float) -> float:
        size = self._write(keep).bytes
        self._overhead += size - self._estimate_megabytes(keep) * 1e6
        return size / 1e6

    def _time(self, keep: float) -> float:
        return self._costs.time_alone(self._write(keep))

    def _write(self, keep: float) -> CandidateFile:
        """The file of a student; students of equal widths share one."""
        kept = self._shrinker.choose_kept(keep)
        widths = tuple(kept.count(maker.vector) for maker in self._shrinker.channels.makers.values())
        if widths not in self._files:
            self._files[widths] = self._costs.write(self._costs.wrap(self._shrinker.assemble(keep)))
        return self._files[widths]
