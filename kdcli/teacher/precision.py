"""Precision of the teacher: half precision where it is faster and the outputs hardly change."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from kdcli.data.examples import Examples
from kdcli.data.views import create_identity_views
from kdcli.errors import UsageError
from kdcli.models.hardware import has_gpu, is_fast_in
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS
from kdcli.models.saved_model.network import SavedModelNetwork
from kdcli.teacher.inference import TeacherPass
from kdcli.teacher.storage_dtype import measure_decision_agreement, measure_largest_change

# Training examples on which the precisions are compared.
SAMPLE_SIZE = 2048
# Examples whose features are used to choose their dtypes; more could fill the memory.
FEATURE_SAMPLE_SIZE = 256
# Requirements of `auto` for half precision.
_MIN_AGREEMENT, _MAX_CHANGE, _MIN_SPEEDUP = 0.999, 0.02, 1.1
_BATCH_SIZE = 256
_FLOAT32 = "--set teacher.precision=float32"


@dataclass(frozen=True, kw_only=True)
class PrecisionComparison:
    """Half precision compared with float32.

    Args:
        precision: the half precision.
        examples: number of examples compared.
        agreement: fraction of decisions that agree with float32; None for values.
        largest_change: largest change of a probability, or of a value in standard deviations of its output.
        speedup: time of float32 divided by that of half precision.
    """

    precision: str
    examples: int
    agreement: float | None
    largest_change: float
    speedup: float

    @property
    def is_accurate(self) -> bool:
        """Whether the outputs change little enough for `auto`."""
        return (self.agreement is None or self.agreement >= _MIN_AGREEMENT) and self.largest_change <= _MAX_CHANGE

    @property
    def text(self) -> str:
        """The measurements, as a clause for the plan."""
        if self.agreement is None:
            change = (
                f"on {self.examples:,} examples values change by at most {self.largest_change:.4f} standard "
                "deviations"
            )
        else:
            change = (
                f"{self.agreement:.2%} of decisions on {self.examples:,} examples agree with float32, "
                f"probabilities change by at most {self.largest_change:.4f}"
            )
        return f"{change}, {self.speedup:.1f} times as fast"


@dataclass(frozen=True, kw_only=True)
class PrecisionChoice:
    """The precision in which a teacher computes, and the outputs behind the choice.

    Args:
        precision: the chosen precision.
        reason: why, as a clause; empty if the comparison says it.
        comparison: half precision compared with float32; None if no half precision was tried.
        outputs: float32 outputs for the sample: all logits, and the taps of its first 256 examples.
    """

    precision: str
    reason: str = ""
    comparison: PrecisionComparison | None = None
    outputs: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def text(self) -> str:
        """A clause for the plan."""
        if self.comparison is None:
            return f"{self.precision}: {self.reason}"
        if self.precision == self.comparison.precision:
            return f"{self.precision}: {self.comparison.text}"
        return f"{self.precision}: {self.reason} ({self.comparison.text})"


def check_teacher_precision(requested: str, teacher: Network) -> None:
    """Refuse a precision in which this teacher cannot compute on this machine.

    Args:
        requested: `auto`, `float32`, `mixed_bfloat16` or `mixed_float16`.
        teacher: the teacher.

    Raises:
        UsageError: naming a precision that works.
    """
    if requested in ("auto", "float32"):
        return
    if not isinstance(teacher, KerasNetwork | SavedModelNetwork):
        raise UsageError(
            f"teacher.precision={requested} needs a Keras model or a SavedModel; {teacher.name} computes in "
            "float32 only",
            hint=_FLOAT32,
        )
    if requested == "mixed_float16" and not has_gpu():
        raise UsageError(
            "teacher.precision=mixed_float16 needs a GPU; a CPU is more than ten times slower in it",
            hint="--set teacher.precision=mixed_bfloat16",
        )
    if requested == "mixed_bfloat16" and isinstance(teacher, SavedModelNetwork) and not is_fast_in(requested):
        raise UsageError(
            f"teacher.precision=mixed_bfloat16: {teacher.name} is a SavedModel, and this machine has no hardware "
            "support for bfloat16",
            hint=_FLOAT32,
        )
    if requested == "mixed_bfloat16" and isinstance(teacher, SavedModelNetwork) and has_gpu():
        raise UsageError(
            f"teacher.precision=mixed_bfloat16 on a GPU needs a Keras model; {teacher.name} is a SavedModel",
            hint="--set teacher.precision=mixed_float16",
        )


def choose_precision(
    requested: str,
    teacher: Network,
    sample: Examples,
    *,
    taps: Sequence[str] = (),
    clock: Callable[[], float] = time.perf_counter,
    on_batch: Callable[[int], None] | None = None,
) -> PrecisionChoice:
    """Choose the precision of a teacher: as requested; with `auto` half precision if it is faster and accurate.

    It is accurate if at least 99.9% of the decisions agree with float32 and no probability changes by more than
    0.02 (no value by more than 0.02 standard deviations), and faster if it takes less than 1/1.1 of the time. Both
    precisions process the sample in turn, batch by batch, after a warm-up batch.

    Args:
        requested: `auto`, `float32`, `mixed_bfloat16` or `mixed_float16`.
        teacher: the teacher.
        sample: training examples; the first 2,048 of them are used.
        taps: tapped features that are needed in addition to the logits.
        clock: returns seconds.
        on_batch: called with the number of examples processed so far; it may raise to stop.

    Raises:
        UsageError: this teacher cannot compute in the requested precision on this machine.
        ModelError: an output is NaN or infinite.
    """
    check_teacher_precision(requested, teacher)
    sample = sample.subset(np.arange(min(len(sample), SAMPLE_SIZE)))
    half, reason = _select_half_precision(requested, teacher, len(sample))
    precisions = ["float32"] if half is None else ["float32", half]
    views = create_identity_views(sample)
    with ExitStack() as stack:
        passes = {}
        for precision in precisions:
            made = TeacherPass(
                teacher, taps, sample, views, precision=precision, batch_size=_BATCH_SIZE, folding=half is not None
            )
            passes[precision] = stack.enter_context(made)
        outputs, seconds = _run_in_turn(passes, len(sample), clock=clock, on_batch=on_batch)
    exact = outputs["float32"]
    if half is None:
        return PrecisionChoice(precision="float32", reason=reason, outputs=exact)
    logits, kind = (exact[LOGITS], outputs[half][LOGITS]), teacher.output_kind
    compared = PrecisionComparison(
        precision=half,
        examples=len(sample),
        agreement=measure_decision_agreement(*logits, output_kind=kind),
        largest_change=measure_largest_change(*logits, output_kind=kind),
        speedup=statistics.median(
            a / max(b, 1e-9) for a, b in zip(seconds["float32"], seconds[half], strict=True)
        ),
    )
    if requested != "auto" or (compared.is_accurate and compared.speedup > _MIN_SPEEDUP):
        return PrecisionChoice(precision=half, comparison=compared, outputs=exact)
    refusal = "is not faster on this machine" if compared.is_accurate else "changes the outputs too much"
    return PrecisionChoice(precision="float32", reason=f"{half} {refusal}", comparison=compared, outputs=exact)


def _select_half_precision(requested: str, teacher: Network, examples: int) -> tuple[str | None, str]:
    """Select the half precision to compare with float32; else None and the reason."""
    if requested != "auto":
        return (None if requested == "float32" else requested), "as requested"
    if not isinstance(teacher, KerasNetwork | SavedModelNetwork):
        return None, f"{teacher.name} computes in float32 only"
    half = "mixed_float16" if isinstance(teacher, SavedModelNetwork) and has_gpu() else "mixed_bfloat16"
    short = half.removeprefix("mixed_")
    if not is_fast_in(half):
        return None, f"this machine has no hardware support for {short}"
    if examples < SAMPLE_SIZE:
        # Little time is saved either, and a choice by timing would make small runs irreproducible.
        needs = f"needs {SAMPLE_SIZE:,} examples, the data has {examples:,}"
        return None, f"checking that {short} changes nothing {needs}"
    return half, ""


def _run_in_turn(
    passes: dict[str, TeacherPass],
    examples: int,
    *,
    clock: Callable[[], float],
    on_batch: Callable[[int], None] | None,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, list[float]]]:
    """Run the passes in turn, batch by batch; returns the outputs of each, and the seconds of each batch."""
    for teacher_pass in passes.values():
        teacher_pass(0, 0, min(_BATCH_SIZE, examples))
    batches: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in passes}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for start in range(0, examples, _BATCH_SIZE):
        stop = min(start + _BATCH_SIZE, examples)
        for name, teacher_pass in passes.items():
            began = clock()
            outputs = teacher_pass(0, start, stop)
            seconds[name].append(clock() - began)
            stored = {tap: v for tap, v in outputs.items() if tap == LOGITS or start < FEATURE_SAMPLE_SIZE}
            batches[name].append(stored)
        if on_batch is not None:
            on_batch(stop)
    joined = {
        name: {tap: np.concatenate([batch[tap] for batch in found if tap in batch]) for tap in found[0]}
        for name, found in batches.items()
    }
    return joined, seconds
