"""Random inputs, for models without data."""

from __future__ import annotations

import numpy as np

from kdcli.models.network import TensorSpec

# The side of an axis of any size.
_SIDE = 8


def draw_input(spec: TensorSpec, examples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw examples for one input of a model: (examples, *shape); a side of any size is 8.

    Inputs of float types are normally distributed, those of integer types are 0 or 1; NumPy has no bfloat16, for
    which they are float32.
    """
    values: np.ndarray = generator.standard_normal(
        (examples, *(_SIDE if side is None else side for side in spec.shape))
    )
    if not spec.dtype.startswith(("float", "bfloat")):
        values = values > 0
    return values.astype(np.float32 if spec.dtype == "bfloat16" else spec.dtype)
