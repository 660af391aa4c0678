"""From the student's feature to the shape of the teacher's."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.distillation.projection import find_grid, make_projection
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
        ((8, 4), (4, 4), "average pool 2", 0),
        ((7, 4), (5, 4), "resize 7 → 5 steps", 0),
        ((5, 4), (7, 8), "resize 5 → 7 steps, dense 4 → 8", 40),
        ((16, 4), (4, 4, 4), "16 tokens as a map 4×4", 0),
        ((196, 4), (14, 14, 8), "196 tokens as a map 14×14, 1×1 convolution 4 → 8", 40),
        ((17, 4), (2, 2, 4), "without the class token, 16 tokens as a map 4×4, average pool 2×2", 0),
        ((15, 4), (3, 5, 4), "15 tokens as a map 3×5", 0),
        ((16, 4), (2, 8, 4), "16 tokens as a map 2×8", 0),
        ((4, 4, 4), (16, 4), "map 4×4 as 16 tokens", 0),
        ((8, 8, 4), (16, 8), "average pool 2×2, map 4×4 as 16 tokens, dense 4 → 8", 40),
        ((6, 6, 4), (16, 4), "resize 6×6 → 4×4, map 4×4 as 16 tokens", 0),
    ],
)
def test_feature_is_projected_to_the_teachers_shape(student, teacher, text, weights):
    result, projection, _ = projected(student, teacher)
    assert result.shape == (2, *teacher)
    assert projection.text == text
    assert sum(int(np.prod(v.shape)) for v in projection.variables) == weights


def test_class_token_of_the_teacher_is_dropped_if_the_student_has_none():
    result, projection, feature = projected((4, 4, 3), (17, 3))
    assert projection.text == "map 4×4 as 16 tokens, without the class token of the teacher"
    assert (projection.shape, result.shape) == ((16, 3), (2, 16, 3))
    np.testing.assert_array_equal(result.reshape(2, 4, 4, 3), feature)
    target = RANDOM.normal(size=(2, 17, 3)).astype(np.float32)
    np.testing.assert_array_equal(projection.project_teacher(target), target[:, 1:])


def test_teacher_feature_of_unchanged_shape_is_not_copied():
    _, projection, _ = projected((4, 4, 3), (2, 2, 5))
    target = RANDOM.normal(size=(2, 2, 2, 5)).astype(np.float32)
    assert projection.project_teacher(target) is target
    assert projection.shape == (2, 2, 5)


def test_tokens_become_the_rows_of_a_map():
    result, _, feature = projected((17, 3), (4, 4, 3))
    np.testing.assert_array_equal(result[:, 1, 2], feature[:, 1 + 4 + 2])


def test_image_tokens_are_resized_as_a_grid():
    projection = make_projection((16, 3), (4, 3), pair="s → t", images=True)
    assert projection.text == "16 tokens as a map 4×4, average pool 2×2, map 2×2 as 4 tokens"
    feature = RANDOM.normal(size=(2, 16, 3)).astype(np.float32)
    corners = feature.reshape(2, 4, 4, 3)[:, :2, 2:].mean((1, 2))
    np.testing.assert_allclose(np.asarray(projection(feature))[:, 1], corners, atol=1e-6)
    both = make_projection((17, 3), (5, 3), pair="s → t", images=True)
    assert both.text.startswith("without the class token, 16 tokens as a map 4×4")
    assert both.text.endswith("without the class token of the teacher")
    assert both.shape == (4, 3)


def test_other_sequences_are_resized_along_their_steps():
    result, _, feature = projected((16, 3), (4, 3))
    np.testing.assert_allclose(result[:, 1], feature[:, 4:8].mean(1), atol=1e-6)
    result, _, feature = projected((4, 1), (7, 1))
    # Interpolated between the middles of the steps, the ends kept.
    places = np.clip((np.arange(7) + 0.5) * 4 / 7 - 0.5, 0, 3)
    np.testing.assert_allclose(result[0, :, 0], np.interp(places, range(4), feature[0, :, 0]), atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "like", "grid"),
    [(16, (), (4, 4, 0)), (197, (), (14, 14, 1)), (15, (), None), (2, (), None), (17, (2, 8, 3), (2, 8, 1))],
)
def test_a_number_of_tokens_is_a_grid_or_none(steps, like, grid):
    assert find_grid(steps, like=like) == grid


def test_a_smaller_map_is_the_average_of_windows():
    result, _, feature = projected((4, 4, 3), (2, 2, 3))
    np.testing.assert_allclose(result[:, 1, 0], feature[:, 2:, :2].mean((1, 2)), atol=1e-6)


def test_a_vector_is_the_average_over_positions():
    result, _, feature = projected((4, 4, 3), (3,))
    np.testing.assert_allclose(result, feature.mean((1, 2)), atol=1e-6)


def test_channels_are_projected_at_each_position():
    result, projection, feature = projected((4, 4, 3), (4, 4, 5))
    kernel, bias = (v.numpy() for v in projection.variables)
    np.testing.assert_allclose(result, feature @ kernel[0, 0] + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "text"),
    [
        ((4,), (6, 6, 4), "a student feature of shape (4,) cannot be projected to (6, 6, 4)"),
        ((7, 4), (6, 6, 4), "a student feature of shape (7, 4) cannot be projected to (6, 6, 4)"),
        ((4,), (7, 4), "a student feature of shape (4,) cannot be projected to (7, 4)"),
        ((6, 6, 4), (7, 4), "a student feature of shape (6, 6, 4) cannot be projected to (7, 4)"),
        ((2, 6, 6, 4), (6, 6, 4), "a student feature of shape (2, 6, 6, 4) cannot be projected to (6, 6, 4)"),
        ((None, None, 4), (6, 6, 4), "the shapes (None, None, 4) and (6, 6, 4) are not fixed"),
    ],
)
def test_shapes_that_cannot_be_matched_are_refused_by_pair(student, teacher, text):
    with pytest.raises(ModelError) as caught:
        made(student, teacher)
    assert caught.value.message.startswith("losses.hint: s → t: ")
    assert text in caught.value.message
    assert caught.value.exit_code == 4
    assert caught.value.hint
