"""Asking what takes only one batch size, or less than everything at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from kdcli.lazy import keras, tf

# Examples that are asked at once where any number can be.
_CHUNK_EXAMPLES = 256


class Runner(Protocol):
    """An exported file in its own runtime."""

    runtime: str
    threads: int
    batch: int | None

    def predict(self, batch: np.ndarray) -> np.ndarray:
        """Answers (n, ...) in float32 to examples (n, ...), as many as there are."""
        ...

    def time_block(self, requests: list[np.ndarray]) -> np.ndarray:
        """Nanoseconds (int64) of each request, from host array to host array."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


def predict_in_batches(
    ask: Callable[[np.ndarray], np.ndarray], examples: np.ndarray, *, size: int | None
) -> np.ndarray:
    """The answers to all examples, batch by batch.

    Args:
        ask: answers a batch.
        size: the only batch size it takes; the last batch is filled up with its own last example. None: any.
    """
    answers = []
    for start in range(0, len(examples), size or _CHUNK_EXAMPLES):
        batch = examples[start : start + (size or _CHUNK_EXAMPLES)]
        missing = (size or len(batch)) - len(batch)
        filled = np.concatenate([batch, np.repeat(batch[-1:], missing, 0)]) if missing else batch
        answers.append(ask(filled)[: len(batch)])
    return np.concatenate(answers)


def time_in_batches(
    ask: Callable[[np.ndarray], np.ndarray], requests: list[np.ndarray], *, size: int | None
) -> np.ndarray:
    """Nanoseconds (int64) of each request, one after the other, answered as `in_batches` does."""
    taken = np.empty(len(requests), np.int64)
    for number, request in enumerate(requests):
        began = time.perf_counter_ns()
        predict_in_batches(ask, request, size=size)
        taken[number] = time.perf_counter_ns() - began
    return taken


def map_in_batches(ask: Callable[[Any], Any], inputs: Any, *, size: int) -> Any:
    """The answers to any number of examples from what takes just `size` at once.

    Args:
        ask: from inputs with `size` examples to a structure of tensors with as many.
        inputs: one tensor (batch, ...) or a structure of them; the last part is filled up with the last example.
        size: the only batch size.
    """
    count = tf.shape(keras.tree.flatten(inputs)[0])[0]
    parts = (count + size - 1) // size

    def parted(tensor: Any) -> Any:
        filling = tf.repeat(tensor[-1:], parts * size - count, axis=0)
        shape = tf.concat([[parts, size], tf.shape(tensor)[1:]], 0)
        whole = tf.reshape(tf.concat([tensor, filling], 0), shape)
        whole.set_shape((None, size, *tensor.shape[1:]))
        return whole

    together = keras.tree.map_structure(parted, inputs)
    # The function is traced once more to learn what it gives.
    first = keras.tree.map_structure(lambda tensor: tf.TensorSpec(tensor.shape[1:], tensor.dtype), together)
    given = tf.function(ask, autograph=False).get_concrete_function(first).structured_outputs
    signature = keras.tree.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), given)
    answers = tf.map_fn(ask, together, fn_output_signature=signature, parallel_iterations=1)

    def joined(tensor: Any) -> Any:
        whole = tf.reshape(tensor, tf.concat([[parts * size], tf.shape(tensor)[2:]], 0))[:count]
        whole.set_shape((None, *tensor.shape[2:]))
        return whole

    return keras.tree.map_structure(joined, answers)
