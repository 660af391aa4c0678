"""Names for what TensorFlow and Keras give no usable types for, and the shapes that come with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

# A `tf.Tensor`, or what Keras takes for one; TensorFlow is not imported for a type.
Tensor: TypeAlias = Any
# A `keras.Variable` or a `tf.Variable`.
Variable: TypeAlias = Any
Variables: TypeAlias = Sequence[Variable]
# A `keras.Model`.
KerasModel: TypeAlias = Any
# A `keras.optimizers.Optimizer`.
Optimizer: TypeAlias = Any
# The inputs or outputs of a network, by name.
Tensors: TypeAlias = Mapping[str, Tensor]
# With None for a size that is not fixed.
Shape: TypeAlias = tuple[int | None, ...]
