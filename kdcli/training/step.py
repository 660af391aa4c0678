"""The compiled part of training: many steps in one call, nothing returns to Python in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kdcli.data.feed import Batch, Feed
from kdcli.data.stream import INPUTS_KEY, POSITIONS_KEY, Stream
from kdcli.lazy import keras, tf

TOTAL_LOSS, GRADIENT_NORM = "loss", "gradient norm"


class TrainingObjective(Protocol):
    """What training knows of what it minimises."""

    names: tuple[str, ...]

    @property
    def trainable_variables(self) -> list[Any]:
        """What gradients are taken for."""
        ...

    def __call__(self, batch: Batch, progress: Any) -> tuple[Any, Any]:
        """The weighted total, and its terms as a vector in the order of `names`."""
        ...


@dataclass(frozen=True)
class BlockResult:
    """What a block of steps did.

    Args:
        steps: updates that were applied.
        sums: over those steps, of the total and of each term, by name.
        broken: the first figure that was not finite in the step after them, or None.
    """

    steps: int
    sums: dict[str, float]
    not_finite: str | None


class Stepper:
    """Gathers, answers, differentiates, checks and applies, in one `tf.function`.

    An update whose loss, terms or gradient are not finite is never applied: the block ends before it.

    Args:
        objective: what is minimised.
        feed: where batches come from.
        optimizer: a built `keras.optimizers.Optimizer`.
        batch_size: examples in a step, over all replicas.
        total_steps: of the whole run, for schedules.
        gradient_clip: largest global norm, or None.
        strategy: a `tf.distribute.Strategy`; its replicas share each batch.
        jit: compile the step with XLA.
        share: the part of each batch that this process's replicas take, where other processes take the rest.
    """

    def __init__(
        self,
        objective: TrainingObjective,
        feed: Feed,
        optimizer: Any,
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
        self._connected: list[int] = []
        self._gradients = tf.function(self._replica, jit_compile=True) if jit else self._replica
        # Where this process's part of a streamed batch begins in the whole one.
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

    def start(self, order: np.ndarray, *, table: Any, slot: int) -> None:
        """Lay out the batches of an epoch, or of what is left of it; large data is read ahead from here on.

        Args:
            order: (steps, batch) example indices.
            table: random numbers of the epoch's view.
            slot: which kept view that is.
        """
        self._order, self._table, self._slot = order, table, slot
        self._batches = None if self._stream is None else self._stream.batches(order, table=table)

    def run(self, steps: int, *, first: int) -> BlockResult:
        """Train on the next batches that were laid out.

        Args:
            steps: how many.
            first: number of the block's first step in the run, from 0.

        Raises:
            DataError: what was read ahead cannot be decoded.
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
        broken = None
        if int(taken) < len(positions):
            wrong = np.flatnonzero(~np.isfinite(last.numpy()))
            order = [*range(1, len(names)), 0, len(names)]
            broken = (*names, GRADIENT_NORM)[next(i for i in order if i in wrong)]
        return BlockResult(int(taken), dict(zip(names, sums.numpy()[:-1].tolist(), strict=True)), broken)

    def _block(self, batches: Any, steps: Any, table: Any, slot: Any, first: Any) -> Any:
        width = len(self.objective.names) + 2

        def more(number: Any, finite: Any, sums: Any, last: Any) -> Any:
            return tf.logical_and(number < steps, finite)

        def step(number: Any, finite: Any, sums: Any, last: Any) -> Any:
            progress = tf.cast(first + tf.cast(number, tf.int64), tf.float32) / self.total_steps
            positions, inputs = self._next(batches, number)
            gradients, figures = self.strategy.run(
                self._gradients, args=(positions, inputs, table, slot, progress)
            )
            figures = self._reduced(figures)
            finite = tf.reduce_all(tf.math.is_finite(figures))
            # A cond inside strategy.run fails on two replicas: decide here, then run the update.
            tf.cond(finite, lambda: self._apply(gradients), lambda: tf.constant(0))
            sums += tf.where(finite, tf.cast(figures, tf.float64), 0.0)
            return number + tf.cast(finite, tf.int32), finite, sums, figures

        start = (tf.constant(0), tf.constant(True), tf.zeros(width, tf.float64), tf.zeros(width))
        taken, _, sums, last = tf.while_loop(more, step, start, parallel_iterations=1)
        return taken, sums, last

    def _next(self, batches: Any, number: Any) -> tuple[Any, Any]:
        """Positions of the whole batch, and this process's inputs where they were read ahead."""
        if self._stream is None:
            return batches[number], None
        batch = batches.get_next()
        return batch[POSITIONS_KEY], batch[INPUTS_KEY]

    def _replica(self, positions: Any, inputs: Any, table: Any, slot: Any, progress: Any) -> Any:
        """Gradients over the global batch, and the figures of this replica's share of it."""
        total_examples = positions.shape[0]
        context = tf.distribute.get_replica_context()
        if self.replicas > 1:
            each = total_examples // self.replicas
            begin = context.replica_id_in_sync_group * each
            positions = positions[begin:][:each]
            if inputs is not None:
                inputs = {name: values[begin - self._begin :][:each] for name, values in inputs.items()}
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
        figures = tf.concat([total[None], terms, norm[None] / self.replicas], axis=0)
        return gradients, figures

    def _apply(self, gradients: Any) -> Any:
        def update(gradients: Any) -> None:
            # Keras sums gradients over replicas once more; they already are the global ones.
            shares = [gradient / self.replicas for gradient in gradients] if self.replicas > 1 else gradients
            self.optimizer.apply(shares, [self._variables[place] for place in self._connected])

        self.strategy.run(update, args=(gradients,))
        return tf.constant(0)

    def _reduced(self, figures: Any) -> Any:
        if self.replicas == 1:
            return figures
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, figures, axis=None)


def make_schedule(learning_rate: float, schedule: Any, total_steps: int) -> Any:
    """A Keras learning rate schedule from a recipe's `schedule`."""

    class Scheduled(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            progress = tf.minimum(tf.cast(step, tf.float32) / total_steps, 1.0)
            return learning_rate * schedule.factor(progress)

    return Scheduled()


def learning_rate_at(schedule: Any, learning_rate: float, share: float) -> float:
    """The learning rate when a share of training is done, for the log."""
    return float(learning_rate * schedule.factor(tf.constant(share, tf.float32)))
