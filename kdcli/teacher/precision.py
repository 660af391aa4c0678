"""In which precision a teacher answers: half where the machine is faster in it and the answers stay the same."""

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
from kdcli.teacher.storage_dtype import agreement, largest_change

# Training examples that both precisions answer.
SAMPLE = 2048
# Features of so many examples are enough to choose how they are kept, and more could fill the memory.
FEATURES = 256
# What `auto` asks of half precision.
LEAST_PRECISION_AGREEMENT, CHANGE, FASTER = 0.999, 0.02, 1.1
_BATCH = 256
_FLOAT32 = "--set teacher.precision=float32"


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision, why, and the answers that it was chosen by.

    Args:
        precision: what the teacher answers in.
        reason: a clause.
        examples: on how many the figures were measured.
        tried: the half precision that was measured; None where none was, and the next four are None too.
        agreement: the share of decisions that agree with float32; None for values.
        largest_change: of a probability, or of a value in standard deviations of its output.
        accepted: whether it changes little enough; `auto` uses it only then.
        speed: how many times as fast as float32.
        output_kind: what the logits are.
        answers: the float32 answers to the sample: all logits, and the taps of its first 256 examples.
    """

    precision: str
    reason: str
    examples: int
    tried: str | None = None
    agreement: float | None = None
    largest_change: float | None = None
    accepted: bool | None = None
    speed: float | None = None
    output_kind: str = "logits"
    answers: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def text(self) -> str:
        """One sentence for the plan."""
        if self.tried is None or self.largest_change is None or self.speed is None:
            return f"{self.precision}: {self.reason}"
        figures = []
        if self.agreement is not None:
            figures.append(f"{self.agreement:.4f} of the decisions agree with float32")
        what = "value is {:.4f} standard deviations" if self.output_kind == "values" else "probability is {:.4f}"
        figures.append(f"the largest change of a {what.format(self.largest_change)}")
        measured = f"on {self.examples:,} examples {', '.join(figures)}, {self.speed:.1f} times as fast"
        if self.precision == self.tried:
            return f"{self.precision}: {measured}"
        return f"{self.precision}: {self.reason} ({self.tried} {measured})"


def check_teacher_precision(wanted: str, teacher: Network) -> None:
    """Refuse a precision that this teacher cannot answer in here.

    Args:
        wanted: `auto`, `float32`, `mixed_bfloat16` or `mixed_float16`.
        teacher: who answers.

    Raises:
        UsageError: with the way on.
    """
    if wanted in ("auto", "float32"):
        return
    if not isinstance(teacher, KerasNetwork | SavedModelNetwork):
        raise UsageError(
            f"teacher.precision {wanted} needs a Keras model or a SavedModel; {teacher.name} answers in float32",
            hint=_FLOAT32,
        )
    if wanted == "mixed_float16" and not has_gpu():
        raise UsageError(
            "teacher.precision mixed_float16 needs a GPU: processors compute in it more than ten times slower",
            hint="--set teacher.precision=mixed_bfloat16",
        )
    if wanted == "mixed_bfloat16" and isinstance(teacher, SavedModelNetwork) and not is_fast_in(wanted):
        raise UsageError(
            f"teacher.precision mixed_bfloat16: {teacher.name} is a graph, and no hardware here is for it",
            hint=_FLOAT32,
        )
    if wanted == "mixed_bfloat16" and isinstance(teacher, SavedModelNetwork) and has_gpu():
        raise UsageError(
            f"teacher.precision mixed_bfloat16 on a GPU needs a Keras model; {teacher.name} is a graph",
            hint="--set teacher.precision=mixed_float16",
        )


def choose_precision(
    wanted: str,
    teacher: Network,
    sample: Examples,
    *,
    taps: Sequence[str] = (),
    clock: Callable[[], float] = time.perf_counter,
    on_batch: Callable[[int], None] | None = None,
) -> PrecisionChoice:
    """What a teacher answers in: as written, or with `auto` what is faster and answers the same.

    Half precision is accepted where at least 99.9 % of the decisions agree with float32, no probability changes
    by more than 0.02 (no value by more than 0.02 standard deviations) and it is more than 1.1 times as fast.
    Both answer the sample in turn, batch by batch, after a batch that prepares.

    Args:
        wanted: `auto`, `float32`, `mixed_bfloat16` or `mixed_float16`.
        teacher: who answers.
        sample: training examples; the first 2,048 of them are used.
        taps: features that are wanted beside the logits.
        clock: seconds.
        on_batch: called with the number of examples answered so far; it may raise to stop.

    Raises:
        UsageError: this teacher cannot answer in that here.
        ModelError: an answer is NaN or infinite.
    """
    check_teacher_precision(wanted, teacher)
    sample = sample.subset(np.arange(min(len(sample), SAMPLE)))
    tried, reason = _tried(wanted, teacher, len(sample))
    request = ["float32"] if tried is None else ["float32", tried]
    views = create_identity_views(sample)
    with ExitStack() as stack:
        passes = {
            name: stack.enter_context(
                TeacherPass(
                    teacher, taps, sample, views, precision=name, batch_size=_BATCH, folding=tried is not None
                )
            )
            for name in request
        }
        found, seconds = _in_turn(passes, len(sample), clock=clock, on_batch=on_batch)
    exact = found["float32"]
    if tried is None:
        return PrecisionChoice("float32", reason, len(sample), output_kind=teacher.output_kind, answers=exact)
    same = agreement(exact[LOGITS], found[tried][LOGITS], output_kind=teacher.output_kind)
    change = largest_change(exact[LOGITS], found[tried][LOGITS], output_kind=teacher.output_kind)
    speed = statistics.median(a / max(b, 1e-9) for a, b in zip(seconds["float32"], seconds[tried], strict=True))
    accepted = (same is None or same >= LEAST_PRECISION_AGREEMENT) and change <= CHANGE
    used = wanted != "auto" or (accepted and speed > FASTER)
    if wanted == "auto":
        reason = "it answers the same, and faster" if used else _refused(tried, accepted)
    return PrecisionChoice(
        tried if used else "float32",
        reason,
        len(sample),
        tried=tried,
        agreement=same,
        largest_change=change,
        accepted=accepted,
        speed=speed,
        output_kind=teacher.output_kind,
        answers=exact,
    )


def _tried(wanted: str, teacher: Network, count: int) -> tuple[str | None, str]:
    """Which half precision is measured, and why."""
    if wanted != "auto":
        return (None if wanted == "float32" else wanted), "as asked"
    if not isinstance(teacher, KerasNetwork | SavedModelNetwork):
        return None, f"{teacher.name} answers in float32 only"
    tried = "mixed_float16" if isinstance(teacher, SavedModelNetwork) and has_gpu() else "mixed_bfloat16"
    if not is_fast_in(tried):
        return None, f"this machine has no hardware for {tried.removeprefix('mixed_')}"
    if count < SAMPLE:
        # Little is gained either, and a time that decides would make small runs differ from day to day.
        return None, f"{count} examples cannot show that half precision changes nothing ({SAMPLE} can)"
    return tried, ""


def _refused(tried: str, accepted: bool) -> str:
    return f"{tried} is not faster here" if accepted else f"{tried} changes the answers too much"


def _in_turn(
    passes: dict[str, TeacherPass],
    count: int,
    *,
    clock: Callable[[], float],
    on_batch: Callable[[int], None] | None,
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, list[float]]]:
    """The answers of each pass, and the seconds of each batch."""
    for ask in passes.values():
        ask(0, 0, min(_BATCH, count))
    parts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in passes}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for start in range(0, count, _BATCH):
        stop = min(start + _BATCH, count)
        for name, ask in passes.items():
            began = clock()
            answers = ask(0, start, stop)
            seconds[name].append(clock() - began)
            parts[name].append({tap: v for tap, v in answers.items() if tap == LOGITS or start < FEATURES})
        if on_batch is not None:
            on_batch(stop)
    joined = {
        name: {tap: np.concatenate([part[tap] for part in found if tap in part]) for tap in found[0]}
        for name, found in parts.items()
    }
    return joined, seconds
