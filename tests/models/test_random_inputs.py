"""Random inputs for models without data."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.models.network import TensorSpec
from kdcli.models.random_inputs import draw_input


@pytest.mark.parametrize(
    ("dtype", "drawn"),
    [("float32", "float32"), ("bfloat16", "float32"), ("float64", "float64"), ("int32", "int32")],
)
def test_inputs_have_the_shape_and_type_of_the_model(dtype, drawn):
    values = draw_input(TensorSpec("x", (None, 3), dtype), 5, np.random.default_rng(0))
    assert (values.shape, values.dtype.name) == ((5, 8, 3), drawn)
    assert set(np.unique(values)) == {0, 1} if dtype == "int32" else np.ptp(values) > 1
