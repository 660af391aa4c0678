"""The teacher's answers by (view, example index): asked for live, resident, or mapped from the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from kdcli.cache.reader import EntryReader
from kdcli.data.examples import Examples
from kdcli.data.feed import Batch
from kdcli.distillation.mixture import Ensemble, MemberOutputs
from kdcli.lazy import tf
from kdcli.models.files.recorded import RecordedNetwork
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS


class Targets(Protocol):
    """What the objective asks for in every step."""

    def at(self, batch: Batch) -> dict[str, Any]:
        """The teacher's `logits` (of several: `Voices`) and tapped features for a batch, in float32."""
        ...


class LiveTargets:
    """Asks the teacher in every step: nothing is kept, and every epoch may show a new view."""

    def __init__(self, teacher: Network, taps: Sequence[str]) -> None:
        self.teacher = teacher
        self.taps = tuple(taps)

    def at(self, batch: Batch) -> dict[str, Any]:
        """One pass of the teacher, in inference mode and without gradient."""
        answer = self.teacher.compute(batch.inputs, taps=self.taps, training=False)
        return {
            name: tf.stop_gradient(value) for name, value in {LOGITS: answer.logits, **answer.features}.items()
        }


class ResidentTargets:
    """Answers that lie in memory, (views · examples, ...), so that a step gathers only its rows.

    Args:
        answers: by name, in the type in which they are kept.
        examples: in one view.
    """

    def __init__(self, outputs: Mapping[str, np.ndarray], *, examples: int) -> None:
        self.examples = examples
        self._answers = {name: tf.constant(array) for name, array in outputs.items()}

    def at(self, batch: Batch) -> dict[str, Any]:
        """The rows of a batch."""
        rows = tf.cast(batch.slot, batch.positions.dtype) * self.examples + batch.positions
        return {name: tf.cast(tf.gather(array, rows), tf.float32) for name, array in self._answers.items()}


class MappedTargets:
    """Answers that stay on disk: a step reads its rows from the mapped shards of the cache."""

    def __init__(self, reader: EntryReader) -> None:
        self._reader = reader

    def at(self, batch: Batch) -> dict[str, Any]:
        """The rows of a batch."""
        found = {}
        for spec in self._reader.layout.arrays:

            def take(view: np.ndarray, positions: np.ndarray, name: str = spec.name) -> np.ndarray:
                return self._reader.take(name, int(view), positions)

            rows = tf.numpy_function(take, [batch.slot, batch.positions], tf.as_dtype(spec.dtype))
            found[spec.name] = tf.cast(tf.ensure_shape(rows, (*batch.positions.shape, *spec.shape)), tf.float32)
        return found


class EnsembleTargets:
    """The answers of several teachers, each from where it lies; features are the first one's.

    Args:
        members: of each teacher.
        ensemble: how they are mixed.
    """

    def __init__(self, members: Sequence[Targets], ensemble: Ensemble) -> None:
        self.members = tuple(members)
        self.ensemble = ensemble

    def at(self, batch: Batch) -> dict[str, Any]:
        """Every teacher is asked, or looked up, once."""
        first, *others = (member.at(batch) for member in self.members)
        answers = (first[LOGITS], *(other[LOGITS] for other in others))
        return {**first, LOGITS: MemberOutputs(answers, self.ensemble)}


class SubsetTargets:
    """The answers to some of the examples, by their position among those.

    Args:
        targets: to all of them.
        positions: (n,), of those that a batch is going to name 0 to n - 1.
    """

    def __init__(self, targets: Targets, positions: np.ndarray) -> None:
        self._targets = targets
        self._positions = tf.constant(positions)

    def at(self, batch: Batch) -> dict[str, Any]:
        """The rows of a batch."""
        positions = tf.gather(self._positions, batch.positions)
        return self._targets.at(replace(batch, positions=positions))


def make_recorded_targets(teacher: RecordedNetwork, examples: Examples) -> ResidentTargets:
    """Answers that were recorded, for training examples as they are.

    Raises:
        ModelError: some of them have none.
    """
    return ResidentTargets({LOGITS: teacher.read_logits(examples.rows)}, examples=len(examples))
