"""Batches read ahead: taken, decoded and augmented beside the training, for data larger than memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.data.feed import read_host_inputs
from kdcli.data.views import Views
from kdcli.lazy import tf

# What may wait, already read, for the training to come.
PREFETCH_BYTES = 128_000_000
POSITIONS_KEY, INPUTS_KEY = "positions", "inputs"


class Stream:
    """Reads the batches of an order ahead, in that order, several at a time.

    The pipeline is traced once; every order and every view after that only starts it again. A batch has the
    same bits as one that is gathered inside the step: both come from `Views.apply`.

    Args:
        examples: of which batches are made.
        views: their augmentation.
        batch_size: examples in a batch; None where batches of several sizes will come.
        share: the part of each batch whose inputs are read; None is the whole batch. Positions are always those
            of the whole batch.
    """

    def __init__(
        self, examples: Examples, views: Views, *, batch_size: int | None, batch_slice: slice | None = None
    ) -> None:
        self.examples = examples
        self.views = views
        self.share = batch_slice or slice(None)
        self.element_spec = self._element(batch_size)
        signature = (
            tf.TensorSpec((None, batch_size), tf.int64),
            tf.TensorSpec((None, views.draws), tf.float32),
        )
        self._dataset = tf.function(self._pipeline, autograph=False, input_signature=signature)

    @property
    def spec(self) -> Any:
        """The type of an iterator, for the signature of a compiled function."""
        return tf.data.IteratorSpec(self.element_spec)

    def batches(self, order: np.ndarray, *, table: Any) -> Any:
        """An iterator over the batches of an order: `positions` and, by name, `inputs` in the view.

        It can be given to a compiled function, and read in Python.

        Args:
            order: (steps, batch) example indices.
            table: random numbers of the view.
        """
        return iter(self._dataset(tf.constant(order, tf.int64), table))

    def report_damage(self, order: np.ndarray, *, table: Any) -> None:
        """Read batches that failed once more, picture by picture.

        Args:
            order: (steps, batch) example indices.
            table: random numbers of the view.

        Raises:
            DataError: one of them cannot be decoded.
        """
        for positions in order:
            mine = positions[self.share]
            read = [mine]
            if self.views.mixes:
                height, width = next(iter(self.examples.shapes.values()))[:2]
                sources = self.views.sources(tf.constant(mine, tf.int64), table, size=(height, width))
                read = [at.numpy() for at, _ in sources]
            for at in read:
                self.examples.take(at)

    def _pipeline(self, order: Any, table: Any) -> Any:
        size = order.shape[1] or 1
        each = max(1, self.examples.bytes // max(len(self.examples), 1))
        ahead = int(np.clip(PREFETCH_BYTES // (size * each), 2, 16))
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        batches = tf.data.Dataset.from_tensor_slices(order)
        batches = batches.map(
            partial(self._batch, table=table), num_parallel_calls=min(ahead, os.cpu_count() or 1)
        )
        return batches.prefetch(ahead).with_options(options)

    def _batch(self, positions: Any, *, table: Any) -> Mapping[str, Any]:
        mine = positions[self.share]
        take = partial(read_host_inputs, self.examples)
        return {POSITIONS_KEY: positions, INPUTS_KEY: dict(self.views.apply(take(mine), mine, table, take=take))}

    def _element(self, batch_size: int | None) -> Mapping[str, Any]:
        count = None if batch_size is None else len(range(batch_size)[self.share])
        shapes, dtypes = self.examples.shapes, self.examples.dtypes
        inputs = {name: tf.TensorSpec((count, *shape), dtypes[name]) for name, shape in shapes.items()}
        return {POSITIONS_KEY: tf.TensorSpec((batch_size,), tf.int64), INPUTS_KEY: inputs}
