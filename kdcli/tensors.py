"""Type aliases for TensorFlow and Keras objects, which have no usable types of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

# A `tf.Tensor`, or anything that Keras accepts as one. TensorFlow is not imported for a type.
Tensor: TypeAlias = Any
# A `keras.Variable` or a `tf.Variable`.
Variable: TypeAlias = Any
Variables: TypeAlias = Sequence[Variable]
# A `keras.Model`.
KerasModel: TypeAlias = Any
# A `keras.optimizers.Optimizer`.
Optimizer: TypeAlias = Any
# Inputs or outputs of a network by name.
Tensors: TypeAlias = Mapping[str, Tensor]
# Batches of preprocessed examples, each as the model takes them.
Batches: TypeAlias = Callable[[], Iterator[Any]]
# None stands for a size that is not fixed.
Shape: TypeAlias = tuple[int | None, ...]
# A `keras.Layer`.
Layer: TypeAlias = Any
