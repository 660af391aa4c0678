"""The teacher's answers by (view, example index): asked for live, or answered once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import psutil

from kdcli.data.examples import Examples
from kdcli.data.feed import Batch, from_host
from kdcli.data.views import Views
from kdcli.errors import ModelError
from kdcli.lazy import tf
from kdcli.models.answering import LOGITS, Answering
from kdcli.models.network import Network
from kdcli.models.recorded import RecordedNetwork


class Targets(Protocol):
    """What the objective asks for in every step."""

    mode: str
    bytes: int

    def at(self, batch: Batch) -> dict[str, Any]:
        """`logits` and the tapped features of the teacher for a batch."""
        ...


class LiveTargets:
    """Asks the teacher in every step: nothing is kept, and every epoch may show a new view."""

    mode = "live"
    bytes = 0

    def __init__(self, teacher: Network, taps: Sequence[str]) -> None:
        self.teacher = teacher
        self.taps = tuple(taps)

    def at(self, batch: Batch) -> dict[str, Any]:
        """One pass of the teacher, in inference mode and without gradient."""
        answer = self.teacher.answer(batch.inputs, taps=self.taps, training=False)
        return {LOGITS: tf.stop_gradient(answer.logits), **answer.features}


class KeptTargets:
    """Answers kept in memory, flattened to (views · examples, ...) so that a step gathers only its rows."""

    mode = "memory"

    def __init__(self, answers: dict[str, np.ndarray], *, examples: int) -> None:
        self.examples = examples
        self.bytes = sum(array.nbytes for array in answers.values())
        self._answers = {name: tf.constant(array) for name, array in answers.items()}

    def at(self, batch: Batch) -> dict[str, Any]:
        """The rows of a batch."""
        rows = tf.cast(batch.slot, batch.positions.dtype) * self.examples + batch.positions
        return {name: tf.gather(array, rows) for name, array in self._answers.items()}


def recorded_targets(teacher: RecordedNetwork, examples: Examples) -> KeptTargets:
    """Answers that were recorded, for training examples as they are.

    Raises:
        ModelError: some of them have none.
    """
    return KeptTargets({LOGITS: teacher.logits_of(examples.rows)}, examples=len(examples))


def logits_of(teacher: Network, examples: Examples) -> np.ndarray:
    """The teacher's logits for examples as they are: asked for, or from what is recorded.

    Raises:
        ModelError: nothing is recorded for some of them.
    """
    if isinstance(teacher, RecordedNetwork):
        return teacher.logits_of(examples.rows)
    return Answering(teacher)(examples.take, len(examples))[LOGITS]


def answer_once(
    teacher: Network,
    taps: Sequence[str],
    examples: Examples,
    views: Views,
    *,
    batch_size: int = 256,
    on_batch: Callable[[int], None] | None = None,
) -> KeptTargets:
    """Let the teacher answer every example in every kept view, once.

    Raises:
        ModelError: an answer is NaN or infinite.
    """
    count = views.count or 1

    def view(raw: Mapping[str, Any], positions: Any, table: Any) -> Mapping[str, Any]:
        return views.apply(raw, positions, table, take=lambda at: from_host(examples, at))

    ask = Answering(teacher, taps=taps, batch_size=batch_size, view=view)
    kept: dict[str, np.ndarray] = {}
    for slot in range(count):
        done = slot * len(examples)

        def told(so_far: int, done: int = done) -> None:
            if on_batch is not None:
                on_batch(done + so_far)

        table = views.table(slot)
        answers = ask(examples.take, len(examples), view_arguments=[table], on_batch=told)
        for name, values in answers.items():
            _check_finite(teacher, name, values)
            if count == 1:
                kept[name] = values
                continue
            if slot == 0:
                kept[name] = np.empty((count * len(values), *values.shape[1:]), values.dtype)
            kept[name][done : done + len(values)] = values
    return KeptTargets(kept, examples=len(examples))


def _check_finite(teacher: Network, name: str, values: np.ndarray) -> None:
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        raise ModelError(
            f"the teacher ({teacher.name}) answers {int((~finite).sum())} of {len(values)} examples with NaN or "
            f"infinity (first at {int(np.flatnonzero(~finite)[0])}; {name})",
            hint="check its input.scale and its weights: kd evaluate it alone",
        )


def bytes_needed(teacher: Network, taps: Sequence[str], examples: int, views: int) -> int:
    """What keeping float32 answers would take."""
    shapes = [(*teacher.output_shape[:-1], teacher.outputs), *(teacher.taps[name] for name in taps)]
    values = sum(int(np.prod([side or 1 for side in shape])) for shape in shapes)
    return 4 * values * examples * views


def choose_mode(wanted: str, *, needed: int, keeps: bool, recorded: bool = False) -> tuple[str, str]:
    """`memory` or `live`, and why.

    Args:
        wanted: `auto`, `memory` or `live`.
        needed: bytes of the kept answers.
        keeps: whether the views are finite in number.
        recorded: whether the answers are there already.
    """
    if recorded:
        return "memory", "they are recorded"
    if wanted == "live":
        return "live", "as asked"
    if not keeps:
        return "live", "a new view every epoch is asked for, so there is nothing to keep"
    free = psutil.virtual_memory().available
    if wanted == "memory":
        return "memory", "as asked"
    # While they are made the answers exist twice: as arrays, then as tensors.
    if 2 * needed > free // 2:
        return "live", f"{needed} bytes of answers would not fit beside the data ({free} bytes free)"
    return "memory", "they fit in memory"
