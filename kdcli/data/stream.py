"""Batches read, decoded and augmented ahead of training, for data larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from kdcli.data.examples import Examples
from kdcli.data.feed import read_host_inputs
from kdcli.data.views import Views
from kdcli.lazy import tf
from kdcli.tensors import Tensor

# Size of the batches that are read ahead.
PREFETCH_BYTES = 128_000_000
POSITIONS_KEY, INPUTS_KEY = "positions", "inputs"


class Stream:
    """Reads the batches of an order ahead, in that order, several at a time.

    The pipeline is traced once; each order and each view only restarts it. A streamed batch has the same bits as
    a batch gathered inside the step, because both come from `Views.apply`.

    Args:
        examples: the split.
        views: its augmentation.
        batch_size: examples per batch; None if batches differ in size.
        batch_slice: part of each batch whose inputs are read; None for the whole batch. Positions are always
            those of the whole batch.
    """

    def __init__(
        self, examples: Examples, views: Views, *, batch_size: int | None, batch_slice: slice | None = None
    ) -> None:
        self.examples = examples
        self.views = views
        self.batch_slice = batch_slice or slice(None)
        self.element_spec = self._build_element_spec(batch_size)
        signature = (
            tf.TensorSpec((None, batch_size), tf.int64),
            tf.TensorSpec((None, views.draws), tf.float32),
        )
        self._dataset = tf.function(self._build_pipeline, autograph=False, input_signature=signature)

    @property
    def spec(self) -> Any:
        """Type of an iterator, for the signature of a compiled function."""
        return tf.data.IteratorSpec(self.element_spec)

    def batches(self, order: np.ndarray, *, table: Tensor) -> Iterator[Mapping[str, Any]]:
        """Iterate over the batches of an order: `positions` and, by name, `inputs` in the view.

        The iterator can be passed to a compiled function or read in Python.

        Args:
            order: (steps, batch) example indices.
            table: random numbers of the view.
        """
        return iter(self._dataset(tf.constant(order, tf.int64), table))

    def report_damage(self, order: np.ndarray, *, table: Tensor) -> None:
        """Read batches that failed once more, to find the damaged image.

        Args:
            order: (steps, batch) example indices.
            table: random numbers of the view.

        Raises:
            DataError: an image cannot be decoded.
        """
        for positions in order:
            mine = positions[self.batch_slice]
            sources = [mine]
            if self.views.mixes:
                height, width = next(iter(self.examples.shapes.values()))[:2]
                mixed = self.views.sources(tf.constant(mine, tf.int64), table, size=(height, width))
                sources = [at.numpy() for at, _ in mixed]
            for at in sources:
                self.examples.take(at)

    def _build_pipeline(self, order: Tensor, table: Tensor) -> Any:
        batch_size = order.shape[1] or 1
        example_bytes = max(1, self.examples.bytes // max(len(self.examples), 1))
        ahead = int(np.clip(PREFETCH_BYTES // (batch_size * example_bytes), 2, 16))
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        batches = tf.data.Dataset.from_tensor_slices(order)
        batches = batches.map(
            partial(self._read_batch, table=table), num_parallel_calls=min(ahead, os.cpu_count() or 1)
        )
        return batches.prefetch(ahead).with_options(options)

    def _read_batch(self, positions: Tensor, *, table: Tensor) -> Mapping[str, Any]:
        mine = positions[self.batch_slice]
        take = partial(read_host_inputs, self.examples)
        inputs = dict(self.views.apply(take(mine), mine, table, take=take))
        return {POSITIONS_KEY: positions, INPUTS_KEY: inputs}

    def _build_element_spec(self, batch_size: int | None) -> Mapping[str, Any]:
        count = None if batch_size is None else len(range(batch_size)[self.batch_slice])
        shapes, dtypes = self.examples.shapes, self.examples.dtypes
        inputs = {name: tf.TensorSpec((count, *shape), dtypes[name]) for name, shape in shapes.items()}
        return {POSITIONS_KEY: tf.TensorSpec((batch_size,), tf.int64), INPUTS_KEY: inputs}
