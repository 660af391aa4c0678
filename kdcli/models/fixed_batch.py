"""Models that take one batch size only: any number of examples goes through them in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdcli.lazy import keras, tf


def in_parts(ask: Callable[[Any], Any], inputs: Any, *, size: int) -> Any:
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
