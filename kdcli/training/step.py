"""The compiled part of training: many steps per call, without a return to Python between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kdcli.data.feed import Batch, Feed
from kdcli.data.stream import INPUTS_KEY, POSITIONS_KEY, Stream
from kdcli.lazy import keras, tf
from kdcli.recipe.schedule import Schedule
from kdcli.tensors import Optimizer, Tensor, Tensors, Variable

TOTAL_LOSS, GRADIENT_NORM = "loss", "gradient norm"


class TrainingObjective(Protocol):
    """What training needs of the objective."""

    names: tuple[str, ...]

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables that get gradients."""
        ...

    def __call__(self, batch: Batch, progress: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted total, and its terms as a vector in the order of `names`."""
        ...


@dataclass(frozen=True)
class BlockResult:
    """The result of a block of steps.

    Args:
        steps: number of updates that were applied.
        sums: sums over those steps of the total and of each term, by name.
        not_finite: the first value that was not finite in the step after them, or None.
    """

    steps: int
    sums: dict[str, float]
    not_finite: str | None


class Stepper:
    """Gathers a batch, runs the networks, differentiates, checks and applies, in one `tf.function`.

    An update whose loss, terms or gradient are not finite is never applied: the block ends before it.

    Args:
        objective: the objective that is minimised.
        feed: source of the batches.
        optimizer: a built `keras.optimizers.Optimizer`.
        batch_size: number of examples in a step, over all replicas.
        total_steps: number of steps of the whole run, for schedules.
        gradient_clip: largest global norm of the gradient, or None.
        strategy: a `tf.distribute.Strategy`; its replicas share each batch.
        jit: whether to compile the step with XLA.
        batch_slice: the slice of each batch for this process's replicas, if other processes take the rest.
    """

    def __init__(
        self,
        objective: TrainingObjective,
        feed: Feed,
        optimizer: Optimizer,
        *,
        batch_size: int,
        total_steps: int,
        gradient_clip: float | None = None,
        strategy: Any,
        jit: bool = False,
        batch_slice: slice | None = None,
    ) -> None:
        self.objective = objective
        self.feed = feed
        self.optimizer = optimizer
        self.total_steps = total_steps
        self.gradient_clip = gradient_clip
        self.strategy = strategy
        self.replicas = strategy.num_replicas_in_sync
        self._variables = objective.trainable_variables
        # Places of the variables that the objective depends on; set when `_replica` is traced, before `_apply` is.
        self._connected: list[int] = []
        self._gradients = tf.function(self._replica, jit_compile=True) if jit else self._replica
        # Where this process's slice of a streamed batch begins in the whole batch.
        self._begin = (batch_slice.start or 0) if batch_slice is not None else 0
        self._stream = (
            None
            if feed.is_resident
            else Stream(feed.examples, feed.views, batch_size=batch_size, batch_slice=batch_slice)
        )
        # Blocks of any length share one trace: nothing is compiled again when the length or the epoch changes.
        signature = (
            tf.TensorSpec((None, batch_size), tf.int64) if self._stream is None else self._stream.spec,
            tf.TensorSpec((), tf.int32),
            tf.TensorSpec((None, feed.views.draws), tf.float32),
            tf.TensorSpec((), tf.int64),
            tf.TensorSpec((), tf.int64),
        )
        self._compiled = tf.function(self._block, autograph=False, input_signature=signature)

    def start(self, order: np.ndarray, *, table: Tensor, slot: int) -> None:
        """Set the batches of an epoch, or of its remainder; large data is read ahead from here on.

        Args:
            order: example indices (steps, batch).
            table: random numbers of the epoch's view.
            slot: index of the view among the cached views.
        """
        self._order, self._table, self._slot = order, table, slot
        self._batches = None if self._stream is None else self._stream.batches(order, table=table)

    def run(self, steps: int, *, first: int) -> BlockResult:
        """Train on the next batches.

        Args:
            steps: number of steps.
            first: number of the block's first step in the run, from 0.

        Raises:
            DataError: data that was read ahead cannot be decoded.
        """
        positions, self._order = self._order[:steps], self._order[steps:]
        batches = tf.constant(positions, tf.int64) if self._batches is None else self._batches
        try:
            taken, sums, last = self._compiled(
                batches,
                tf.constant(len(positions)),
                self._table,
                tf.constant(self._slot, tf.int64),
                tf.constant(first, tf.int64),
            )
        except tf.errors.OpError:
            if self._stream is not None:
                self._stream.report_damage(positions, table=self._table)
            raise
        names = (TOTAL_LOSS, *self.objective.names)
        not_finite = None
        if int(taken) < len(positions):
            not_finite = _first_not_finite((*names, GRADIENT_NORM), last.numpy())
        sums_by_name = dict(zip(names, sums.numpy()[:-1].tolist(), strict=True))
        return BlockResult(steps=int(taken), sums=sums_by_name, not_finite=not_finite)

    def _block(
        self, batches: Any, steps: Tensor, table: Tensor, slot: Tensor, first: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = len(self.objective.names) + 2

        def more(number: Tensor, finite: Tensor, sums: Tensor, last: Tensor) -> Tensor:
            return tf.logical_and(number < steps, finite)

        def step(number: Tensor, finite: Tensor, sums: Tensor, last: Tensor) -> tuple[Tensor, ...]:
            progress = tf.cast(first + tf.cast(number, tf.int64), tf.float32) / self.total_steps
            positions, inputs = self._next(batches, number)
            gradients, values = self.strategy.run(self._gradients, args=(positions, inputs, table, slot, progress))
            values = self._reduce(values)
            finite = tf.reduce_all(tf.math.is_finite(values))
            # A cond inside strategy.run fails on two replicas, so the decision is made here.
            tf.cond(finite, lambda: self._apply(gradients), lambda: tf.constant(0))
            sums += tf.where(finite, tf.cast(values, tf.float64), 0.0)
            return number + tf.cast(finite, tf.int32), finite, sums, values

        start = (tf.constant(0), tf.constant(True), tf.zeros(width, tf.float64), tf.zeros(width))
        taken, _, sums, last = tf.while_loop(more, step, start, parallel_iterations=1)
        return taken, sums, last

    def _next(self, batches: Any, number: Tensor) -> tuple[Tensor, Tensors | None]:
        """The positions of the whole batch, and this process's inputs if they are read ahead."""
        if self._stream is None:
            return batches[number], None
        batch = batches.get_next()
        return batch[POSITIONS_KEY], batch[INPUTS_KEY]

    def _replica(
        self, positions: Tensor, inputs: Tensors | None, table: Tensor, slot: Tensor, progress: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Gradients over the global batch, and the values of this replica's slice."""
        total_examples = positions.shape[0]
        context = tf.distribute.get_replica_context()
        if self.replicas > 1:
            each = total_examples // self.replicas
            begin = context.replica_id_in_sync_group * each
            positions = positions[begin:][:each]
            if inputs is not None:
                inputs = {name: array[begin - self._begin :][:each] for name, array in inputs.items()}
        batch = self.feed.gather(positions, table, slot=slot, total=total_examples, inputs=inputs)
        variables = [variable.value for variable in self._variables]
        with tf.GradientTape() as tape:
            total, terms = self.objective(batch, progress)
        gradients = tape.gradient(total, variables)
        self._connected = [place for place, gradient in enumerate(gradients) if gradient is not None]
        gradients = [tf.convert_to_tensor(gradients[place]) for place in self._connected]
        if self.replicas > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients)
        if self.gradient_clip is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.gradient_clip, use_norm=norm)
        values = tf.concat([total[None], terms, norm[None] / self.replicas], axis=0)
        return gradients, values

    def _apply(self, gradients: Tensor) -> Tensor:
        def update(gradients: Sequence[Tensor]) -> None:
            # Keras sums the gradients over the replicas again, but they are global already.
            parts = [gradient / self.replicas for gradient in gradients] if self.replicas > 1 else gradients
            self.optimizer.apply(parts, [self._variables[place] for place in self._connected])

        self.strategy.run(update, args=(gradients,))
        return tf.constant(0)

    def _reduce(self, values: Tensor) -> Tensor:
        if self.replicas == 1:
            return values
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)


def _first_not_finite(names: Sequence[str], values: np.ndarray) -> str:
    """The first term that is not finite, else the total or the gradient norm.

    Args:
        names: names of the total, of the terms, and of the gradient norm.
        values: their values, in this order.
    """
    total, *terms, norm = zip(names, values, strict=True)
    return next(name for name, value in (*terms, total, norm) if not np.isfinite(value))


def make_schedule(learning_rate: float, schedule: Schedule, total_steps: int) -> Any:
    """Make a Keras learning rate schedule from a recipe's `schedule`."""

    class Scheduled(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Tensor) -> Tensor:
            progress = tf.minimum(tf.cast(step, tf.float32) / total_steps, 1.0)
            return learning_rate * schedule.factor(progress)

    return Scheduled()


def learning_rate_at(schedule: Schedule, learning_rate: float, progress: float) -> float:
    """The learning rate at `progress` (0 to 1) of training, for the log."""
    return float(learning_rate * schedule.factor(tf.constant(progress, tf.float32)))
