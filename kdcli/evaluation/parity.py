"""How close an exported file is to the model that it was made from, on the same examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.evaluation.quality import measure_agreement, measure_quality
from kdcli.lazy import tf
from kdcli.models.inference import convert_output_kind
from kdcli.models.keras.serving import ServedModel
from kdcli.models.network import SMALLEST_PROBABILITY, Network


@dataclass(frozen=True)
class Reference:
    """What the model itself answers.

    Args:
        network: the model.
        outputs: (n, ...) as its file shall return them.
        output_kind: of the outputs; the network's own when left out.
        labels: of the examples, or None.
        task: of the data; None without data.
        teacher: the logits of the run's teacher, where gates compare with it.
    """

    network: Network
    outputs: np.ndarray
    labels: np.ndarray | None = None
    task: str | None = None
    teacher: np.ndarray | None = None
    output_kind: str | None = None

    @property
    def kind(self) -> str:
        """The output kind of the outputs."""
        return self.output_kind or self.network.saved_kind


@dataclass(frozen=True)
class Parity:
    """What an exported file has in common with its model.

    Args:
        max_abs_diff: of any two outputs.
        agreement: share of equal decisions; None where nothing is decided.
        accuracy: of the file; None without labels or decisions.
        accuracy_drop: how much less that is than the model's own.
        unexplained: for values, the share of the variance of the model's answers that the file misses.
        teacher_agreement, teacher_drop: the same beside the run's teacher, where there is one.
    """

    max_abs_diff: float
    agreement: float | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    unexplained: float | None = None
    teacher_agreement: float | None = None
    teacher_drop: float | None = None


def compute_outputs(
    ask: Callable[[dict[str, np.ndarray]], np.ndarray],
    examples: Examples,
    *,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> np.ndarray:
    """Every answer to the examples of a split, batch by batch; `on_batch` is told how many there are."""
    found = []
    for start in range(0, len(examples), batch_size):
        positions = np.arange(start, min(start + batch_size, len(examples)))
        found.append(ask(examples.take(positions)))
        on_batch(start + len(positions))
    return np.concatenate(found)


def make_model_function(network: Network, kind: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """From raw examples to what the model's file shall return, in float32.

    Args:
        kind: the output kind of that file. Logits are read before a last activation, where that can be.
    """

    def output(raw: dict[str, Any]) -> Any:
        if kind == "logits" != network.saved_kind:
            logits = network.compute(raw).logits
            # A single sigmoid as two classes is (0, z).
            return logits[..., 1:] if network.has_one_sigmoid else logits
        return convert_output_kind(network.compute_saved_output(raw), network.saved_kind, kind)

    compiled = tf.function(output, autograph=False, reduce_retracing=True)

    def ask(raw: dict[str, np.ndarray]) -> np.ndarray:
        tensors = {name: tf.convert_to_tensor(value) for name, value in raw.items()}
        return np.asarray(compiled(tensors).numpy(), np.float32)

    return ask


def make_file_function(
    answer: Callable[[np.ndarray], np.ndarray], serving: ServedModel
) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """From raw examples to what a file returns, given what it takes."""
    return lambda raw: answer(serving.convert_examples(raw))


def compare_outputs(outputs: np.ndarray, reference: Reference) -> Parity:
    """Compare a file's outputs with the model's.

    Args:
        outputs: (n, ...) of the file, on the same examples.
    """
    own = reference.outputs.astype(np.float64)
    difference = outputs.astype(np.float64) - own
    largest = float(np.abs(difference).max())
    task = reference.task
    if task is None:
        return Parity(largest)
    if task == "regression":
        spread = np.square(own - own.mean(0)).sum()
        missed = np.square(difference).sum()
        return Parity(largest, unexplained=float(missed / spread) if spread else float(missed > 0))
    logits, own_logits = (_logits(one, reference) for one in (outputs, reference.outputs))
    agreement, teacher = measure_agreement(logits, own_logits, task=task), reference.teacher
    with_teacher = None if teacher is None else measure_agreement(logits, teacher, task=task)
    if reference.labels is None:
        return Parity(largest, agreement, teacher_agreement=with_teacher)
    accuracy, before = (measure_quality(one, reference.labels, task=task).accuracy for one in (logits, own_logits))
    assert accuracy is not None and before is not None
    drop = None
    if teacher is not None:
        own_accuracy = measure_quality(teacher, reference.labels, task=task).accuracy
        drop = None if own_accuracy is None else own_accuracy - accuracy
    return Parity(
        largest, agreement, accuracy, before - accuracy, teacher_agreement=with_teacher, teacher_drop=drop
    )


def _logits(outputs: np.ndarray, reference: Reference) -> np.ndarray:
    """Outputs of a file as logits, with the columns that the data has."""
    logits = outputs.astype(np.float64)
    if reference.kind in ("probabilities", "sigmoid"):
        logits = np.log(np.clip(logits, SMALLEST_PROBABILITY, 1))
    if reference.kind == "sigmoid":
        logits -= np.log(np.clip(1 - outputs.astype(np.float64), SMALLEST_PROBABILITY, 1))
    if reference.network.outputs == 2 and logits.shape[-1] == 1:
        # A single sigmoid for two classes: z against 0.
        logits = np.concatenate([np.zeros_like(logits), logits], -1)
    return logits
