"""One float type for both sides, and cosines of features of any size."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kdcli.formulas.convention import cosine, promote


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (("float16", "bfloat16"), "float32"),
        (("float32", "float64"), "float64"),
        (("float64", "float16"), "float64"),
        (("int64", "float32"), "float32"),
    ],
)
def test_the_widest_float_type_is_the_type_of_all(types, expected):
    assert [tensor.dtype for tensor in promote(*(tf.ones(2, name) for name in types))] == [expected, expected]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e10, 1e20, 1e30])
def test_a_cosine_does_not_depend_on_the_size_of_a_feature(scale):
    student, teacher = (np.array(row, "float32") for row in ([[3.0, 4.0], [0.0, 0.0]], [[4.0, 3.0], [1.0, 2.0]]))
    watched = tf.constant(student) * scale
    with tf.GradientTape() as tape:
        tape.watch(watched)
        value = cosine(watched, teacher * np.float32(scale))
    np.testing.assert_allclose(value, [0.96, 0.0], rtol=1e-5)
    slope = tape.gradient(value, watched).numpy()
    assert np.isfinite(slope).all() and not slope[1].any()
    # Of a cosine: (t / |t| − cos · s / |s|) / |s|.
    expected = (np.array([0.8, 0.6]) - 0.96 * np.array([0.6, 0.8])) / 5
    np.testing.assert_allclose(slope[0] * scale, expected, rtol=1e-4)
