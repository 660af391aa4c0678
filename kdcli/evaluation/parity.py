"""How close the outputs of an exported file are to those of its model, on the same examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.evaluation.quality import measure_agreement, measure_quality
from kdcli.lazy import tf
from kdcli.models.inference import convert_output_kind
from kdcli.models.keras.served_model import ServedModel
from kdcli.models.network import SMALLEST_PROBABILITY, Network

OutputFunction = Callable[[dict[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Reference:
    """The outputs of the model itself.

    Args:
        network: the model.
        outputs: (n, ...) outputs in the output kind of the exported file.
        labels: labels of the examples, or None.
        task: task of the data; None without data.
        teacher: logits of the run's teacher, if gates compare with it.
        output_kind: output kind of the outputs; by default that of the network.
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
    """The comparison of an exported file with its model.

    Args:
        max_abs_diff: largest absolute difference of two outputs.
        agreement: fraction of equal predicted classes; None for regression.
        accuracy: accuracy of the file; None without labels and for regression.
        accuracy_drop: the model's accuracy minus that of the file.
        unexplained: for regression, the fraction of the variance of the model's outputs that the file misses.
        teacher_agreement, teacher_drop: agreement with the run's teacher, and the teacher's accuracy minus that of
            the file.
    """

    max_abs_diff: float
    agreement: float | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    unexplained: float | None = None
    teacher_agreement: float | None = None
    teacher_drop: float | None = None

    @property
    def quality(self) -> float | None:
        """What files of one model are ranked by: accuracy, else agreement, else the explained variance."""
        if self.unexplained is not None:
            return 1 - self.unexplained
        return self.agreement if self.accuracy is None else self.accuracy


def compute_outputs(
    function: OutputFunction,
    examples: Examples,
    *,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> np.ndarray:
    """The outputs for all examples of a split, batch by batch; `on_batch` gets the number of examples done."""
    outputs = []
    for start in range(0, len(examples), batch_size):
        positions = np.arange(start, min(start + batch_size, len(examples)))
        outputs.append(function(examples.take(positions)))
        on_batch(start + len(positions))
    return np.concatenate(outputs)


def make_model_function(network: Network, kind: str) -> OutputFunction:
    """A function from raw examples to a network's outputs in another output kind, in float32.

    Args:
        network: the model.
        kind: output kind of the exported file. Logits are read before a final activation if possible.
    """

    def output(raw: dict[str, Any]) -> Any:
        if kind == "logits" != network.saved_kind:
            logits = network.compute(raw).logits
            # A single sigmoid as two classes is (0, z).
            return logits[..., 1:] if network.has_one_sigmoid else logits
        return convert_output_kind(network.compute_saved_output(raw), network.saved_kind, kind)

    compiled = tf.function(output, autograph=False, reduce_retracing=True)

    def compute(raw: dict[str, np.ndarray]) -> np.ndarray:
        tensors = {name: tf.convert_to_tensor(value) for name, value in raw.items()}
        return np.asarray(compiled(tensors).numpy(), np.float32)

    return compute


def make_file_function(run: Callable[[np.ndarray], np.ndarray], serving: ServedModel) -> OutputFunction:
    """A function from raw examples to the outputs of an exported file."""
    return lambda raw: run(serving.convert_examples(raw))


def compare_outputs(outputs: np.ndarray, reference: Reference) -> Parity:
    """Compare the outputs of an exported file with those of its model.

    Args:
        outputs: (n, ...) outputs of the file, for the examples of the reference.
        reference: outputs of the model.
    """
    expected = reference.outputs.astype(np.float64)
    difference = outputs.astype(np.float64) - expected
    largest = float(np.abs(difference).max())
    task, labels, teacher = reference.task, reference.labels, reference.teacher
    if task is None:
        return Parity(largest)
    if task == "regression":
        spread = np.square(expected - expected.mean(0)).sum()
        missed = np.square(difference).sum()
        return Parity(largest, unexplained=float(missed / spread) if spread else float(missed > 0))
    logits, model_logits = (to_logits(one, reference) for one in (outputs, reference.outputs))
    agreement = measure_agreement(logits, model_logits, task=task)
    teacher_agreement = None if teacher is None else measure_agreement(logits, teacher, task=task)
    if labels is None:
        return Parity(largest, agreement, teacher_agreement=teacher_agreement)
    accuracy, model_accuracy = (measure_quality(one, labels, task=task).accuracy for one in (logits, model_logits))
    assert accuracy is not None and model_accuracy is not None
    teacher_accuracy = None if teacher is None else measure_quality(teacher, labels, task=task).accuracy
    return Parity(
        largest,
        agreement=agreement,
        accuracy=accuracy,
        accuracy_drop=model_accuracy - accuracy,
        teacher_agreement=teacher_agreement,
        teacher_drop=None if teacher_accuracy is None else teacher_accuracy - accuracy,
    )


def to_logits(outputs: np.ndarray, reference: Reference) -> np.ndarray:
    """Outputs of a file as logits, with the classes of the data; (n, ..., outputs) in float64."""
    logits = outputs.astype(np.float64)
    if reference.kind in ("probabilities", "sigmoid"):
        logits = np.log(np.clip(logits, SMALLEST_PROBABILITY, 1))
    if reference.kind == "sigmoid":
        logits -= np.log(np.clip(1 - outputs.astype(np.float64), SMALLEST_PROBABILITY, 1))
    if reference.network.outputs == 2 and logits.shape[-1] == 1:
        # A single sigmoid with two classes has the logits (0, z).
        logits = np.concatenate([np.zeros_like(logits), logits], -1)
    return logits
