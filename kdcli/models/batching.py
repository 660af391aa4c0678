"""Inference in batches of limited size, for models that accept only one batch size or not everything at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from kdcli.lazy import keras, tf
from kdcli.tensors import Tensor

# Examples in a batch where the model accepts any batch size.
_CHUNK_EXAMPLES = 256

Predict = Callable[[np.ndarray], np.ndarray]


class Runner(Protocol):
    """An exported file in its own runtime."""

    runtime: str
    threads: int
    batch: int | None

    def predict(self, batch: np.ndarray) -> np.ndarray:
        """Compute float32 outputs (n, ...) for any number of examples (n, ...)."""
        ...

    def time_block(self, requests: list[np.ndarray]) -> np.ndarray:
        """Measure the nanoseconds (int64) of each request, from host array to host array."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def predict_in_batches(predict: Predict, examples: np.ndarray, *, size: int | None) -> np.ndarray:
    """Compute the outputs for all examples, batch by batch.

    Args:
        predict: computes the outputs for a batch.
        examples: (n, ...).
        size: the only batch size that `predict` accepts; the last batch is padded with its last example.
            None: any size.
    """
    outputs = []
    for start in range(0, len(examples), size or _CHUNK_EXAMPLES):
        batch = examples[start : start + (size or _CHUNK_EXAMPLES)]
        missing = (size or len(batch)) - len(batch)
        padded = np.concatenate([batch, np.repeat(batch[-1:], missing, 0)]) if missing else batch
        outputs.append(predict(padded)[: len(batch)])
    return np.concatenate(outputs)


def time_in_batches(predict: Predict, requests: list[np.ndarray], *, size: int | None) -> np.ndarray:
    """Measure the nanoseconds (int64) of each request in turn; each is split as in `predict_in_batches`."""
    nanoseconds = np.empty(len(requests), np.int64)
    for number, request in enumerate(requests):
        started = time.perf_counter_ns()
        predict_in_batches(predict, request, size=size)
        nanoseconds[number] = time.perf_counter_ns() - started
    return nanoseconds


def map_in_batches(function: Callable[[Any], Any], inputs: Any, *, size: int) -> Any:
    """Apply a function that accepts only batches of `size` to any number of examples.

    Args:
        function: maps a structure of tensors (size, ...) to a structure of tensors (size, ...).
        inputs: one tensor (batch, ...) or a structure of them; the last batch is padded with the last example.
        size: the only batch size.

    Returns:
        The outputs of `function`, each (batch, ...).
    """
    if all(tensor.shape[0] == size for tensor in keras.tree.flatten(inputs)):
        return function(inputs)
    count = tf.shape(keras.tree.flatten(inputs)[0])[0]
    batches = (count + size - 1) // size

    def split(tensor: Tensor) -> Tensor:
        padding = tf.repeat(tensor[-1:], batches * size - count, axis=0)
        shape = tf.concat([[batches, size], tf.shape(tensor)[1:]], 0)
        return tf.ensure_shape(tf.reshape(tf.concat([tensor, padding], 0), shape), (None, size, *tensor.shape[1:]))

    def join(tensor: Tensor) -> Tensor:
        whole = tf.reshape(tensor, tf.concat([[batches * size], tf.shape(tensor)[2:]], 0))[:count]
        return tf.ensure_shape(whole, (None, *tensor.shape[2:]))

    stacked = keras.tree.map_structure(split, inputs)
    # The function is traced once more to learn the shapes and types of its outputs.
    first = keras.tree.map_structure(lambda tensor: tf.TensorSpec(tensor.shape[1:], tensor.dtype), stacked)
    traced = tf.function(function, autograph=False).get_concrete_function(first).structured_outputs
    signature = keras.tree.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), traced)
    # One batch at a time, because layers may have state.
    outputs = tf.map_fn(function, stacked, fn_output_signature=signature, parallel_iterations=1)
    return keras.tree.map_structure(join, outputs)
