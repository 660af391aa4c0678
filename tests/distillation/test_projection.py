"""From the student's feature to the shape of the teacher's."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.distillation.projection import make_projection
from kdcli.errors import ModelError

RANDOM = np.random.default_rng(0)


def made(student, teacher):
    return make_projection(student, teacher, pair="losses.hint: s → t")


def projected(student, teacher):
    """What becomes of a random feature, the projection, and the feature."""
    keras.utils.set_random_seed(0)
    projection = made(student, teacher)
    feature = RANDOM.normal(size=(2, *student)).astype(np.float32)
    return np.asarray(projection(feature)), projection, feature


@pytest.mark.parametrize("shape", [(4,), (7, 4), (6, 6, 4)])
def test_equal_shapes_need_no_projection(shape):
    assert made(shape, shape) is None


@pytest.mark.parametrize(
    ("student", "teacher", "text", "weights"),
    [
        ((4,), (8,), "dense 4 → 8", 40),
        ((7, 4), (7, 8), "dense 4 → 8", 40),
        ((6, 6, 4), (6, 6, 8), "1×1 convolution 4 → 8", 40),
        ((8, 8, 4), (4, 4, 4), "average pool 2×2", 0),
        ((8, 6, 4), (4, 2, 8), "average pool 2×3, 1×1 convolution 4 → 8", 40),
        ((6, 6, 4), (4, 4, 4), "resize 6×6 → 4×4", 0),
        ((4, 4, 4), (8, 8, 2), "resize 4×4 → 8×8, 1×1 convolution 4 → 2", 10),
        ((6, 6, 4), (4,), "average over positions", 0),
        ((7, 4), (8,), "average over positions, dense 4 → 8", 40),
        ((6, 6, 4), (8,), "average over positions, dense 4 → 8", 40),
    ],
)
def test_a_feature_becomes_the_teachers_shape(student, teacher, text, weights):
    result, projection, _ = projected(student, teacher)
    assert result.shape == (2, *teacher)
    assert projection.text == text
    assert sum(int(np.prod(v.shape)) for v in projection.variables) == weights


def test_a_smaller_map_is_the_average_of_windows():
    result, _, feature = projected((4, 4, 3), (2, 2, 3))
    np.testing.assert_allclose(result[:, 1, 0], feature[:, 2:, :2].mean((1, 2)), atol=1e-6)


def test_a_vector_is_the_average_over_positions():
    result, _, feature = projected((4, 4, 3), (3,))
    np.testing.assert_allclose(result, feature.mean((1, 2)), atol=1e-6)


def test_channels_are_mixed_at_each_position_alone():
    result, projection, feature = projected((4, 4, 3), (4, 4, 5))
    kernel, bias = (v.numpy() for v in projection.variables)
    np.testing.assert_allclose(result, feature @ kernel[0, 0] + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "text"),
    [
        ((4,), (6, 6, 4), "a student feature of shape (4,) cannot become (6, 6, 4)"),
        ((7, 4), (6, 6, 4), "a student feature of shape (7, 4) cannot become (6, 6, 4)"),
        ((7, 4), (5, 4), "7 steps cannot become 5"),
        ((None, None, 4), (6, 6, 4), "shapes (None, None, 4) and (6, 6, 4) are not fixed"),
    ],
)
def test_shapes_that_cannot_be_matched_are_refused_by_pair(student, teacher, text):
    with pytest.raises(ModelError) as caught:
        made(student, teacher)
    assert caught.value.message.startswith("losses.hint: s → t: ")
    assert text in caught.value.message
    assert caught.value.exit_code == 4
    assert caught.value.hint
