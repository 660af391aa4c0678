"""The teacher's outputs by (view, example index): computed live, in memory, or mapped from the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from kdcli.cache.reader import EntryReader
from kdcli.data.examples import Examples
from kdcli.data.feed import Batch
from kdcli.distillation.ensemble_mixture import Ensemble, MemberOutputs
from kdcli.lazy import tf
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS
from kdcli.tensors import Tensor


class Targets(Protocol):
    """The interface through which the objective gets targets in every step."""

    def at(self, batch: Batch) -> dict[str, Tensor]:
        """Return `logits` (`MemberOutputs` for an ensemble) and tapped features for a batch, in float32."""
        ...


class LiveTargets:
    """Runs the teacher in every step: nothing is stored, and every epoch may have a new view."""

    def __init__(self, teacher: Network, taps: Sequence[str]) -> None:
        self.teacher = teacher
        self.taps = tuple(taps)

    def at(self, batch: Batch) -> dict[str, Tensor]:
        """Run the teacher once, in inference mode and without gradient."""
        outputs = self.teacher.compute(batch.inputs, taps=self.taps, training=False)
        return {
            name: tf.stop_gradient(value) for name, value in {LOGITS: outputs.logits, **outputs.features}.items()
        }


class ResidentTargets:
    """Outputs in memory, (views · examples, ...), of which a step gathers its rows.

    Args:
        outputs: arrays by name, in their storage type.
        examples: number of examples in one view.
    """

    def __init__(self, outputs: Mapping[str, np.ndarray], *, examples: int) -> None:
        self.examples = examples
        self._outputs = {name: tf.constant(array) for name, array in outputs.items()}

    def at(self, batch: Batch) -> dict[str, Tensor]:
        """Gather the rows of a batch."""
        rows = tf.cast(batch.slot, batch.positions.dtype) * self.examples + batch.positions
        return {name: tf.cast(tf.gather(array, rows), tf.float32) for name, array in self._outputs.items()}


class MappedTargets:
    """Outputs on disk: a step reads its rows from the memory-mapped shards of the cache."""

    def __init__(self, reader: EntryReader) -> None:
        self._reader = reader

    def at(self, batch: Batch) -> dict[str, Tensor]:
        """Read the rows of a batch."""
        found = {}
        for spec in self._reader.layout.arrays:

            def take(view: np.ndarray, positions: np.ndarray, name: str = spec.name) -> np.ndarray:
                return self._reader.take(name, int(view), positions)

            rows = tf.numpy_function(take, [batch.slot, batch.positions], tf.as_dtype(spec.dtype))
            found[spec.name] = tf.cast(tf.ensure_shape(rows, (*batch.positions.shape, *spec.shape)), tf.float32)
        return found


class EnsembleTargets:
    """The outputs of several teachers, each with its own storage; features are those of the first.

    Args:
        members: targets of each teacher.
        ensemble: how the logits are mixed.
    """

    def __init__(self, members: Sequence[Targets], ensemble: Ensemble) -> None:
        self.members = tuple(members)
        self.ensemble = ensemble

    def at(self, batch: Batch) -> dict[str, Tensor]:
        """Get the targets of every teacher once."""
        first, *others = (member.at(batch) for member in self.members)
        logits = (first[LOGITS], *(other[LOGITS] for other in others))
        return {**first, LOGITS: MemberOutputs(logits, self.ensemble)}


class SubsetTargets:
    """The outputs for a subset of the examples, by their position in the subset.

    Args:
        targets: targets for all examples.
        positions: positions (n,) of the subset's examples among all examples.
    """

    def __init__(self, targets: Targets, positions: np.ndarray) -> None:
        self._targets = targets
        self._positions = tf.constant(positions)

    def at(self, batch: Batch) -> dict[str, Tensor]:
        """Get the rows of a batch."""
        positions = tf.gather(self._positions, batch.positions)
        return self._targets.at(replace(batch, positions=positions))


def make_recorded_targets(teacher: RecordedNetwork, examples: Examples) -> ResidentTargets:
    """Make targets from recorded outputs, for training examples without augmentation.

    Raises:
        ModelError: some examples have no recorded outputs.
    """
    return ResidentTargets({LOGITS: teacher.read_logits(examples.rows)}, examples=len(examples))
