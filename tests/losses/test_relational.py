"""Relational distillation against the published code.

Left out: c8, KD_Lib's with another clamp, another mean and no division by the mean.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import check, draw, gradients
from published import Case, mean

from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2, 4, 6])
def test_agrees_with_the_published_code(number, dtype):
    # Of two examples, in c4, the relations are always the same: 0 but for rounding. In c6 two rows are equal.
    case = Case("rkd", number, dtype, "relational")
    loss = make("relational", distance=case.hyper("w_dist"), angle=case.hyper("w_angle"))
    absolute = {"float64": 1e-12, "float32": 1e-5}[dtype] if number == 4 else None
    case.check(lambda student: mean(loss, student=student, teacher=case["teacher"]), absolute=absolute)


def huber(difference):
    size = np.abs(difference)
    return np.where(size < 1, 0.5 * size**2, size - 0.5)


@pytest.mark.parametrize("options", [{}, {"distance": 0.0}, {"angle": 0.0}, {"squared": True}], ids=str)
def test_each_term_agrees_with_the_formula(options):
    loss = make("relational", **options)

    def relations(feature):
        flat = feature.reshape(len(feature), -1)
        count = range(len(flat))
        steps = np.array([[flat[j] - flat[i] for j in count] for i in count])
        lengths = np.linalg.norm(steps, axis=-1)
        distances = lengths**2 if loss.squared else lengths
        directions = steps / np.maximum(lengths, 1e-12)[..., None]
        angles = np.array([[[directions[i, j] @ directions[i, k] for k in count] for j in count] for i in count])
        return distances / distances[distances > 0].mean(), angles

    def formula(student, teacher):
        ours, theirs = relations(student[0]), relations(teacher[0])
        distance, angle = (huber(a - b).mean() for a, b in zip(ours, theirs, strict=True))
        return loss.distance * distance + loss.angle * angle

    check(loss, formula, draw((4, 3, 2, 2)), draw((4, 5), seed=1))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equal_examples_have_a_small_gradient(dtype):
    # The published code divides by 1e-12 there: its gradient is of the order of 1e11.
    student, teacher = (array.astype(dtype) for array in draw((5, 40), (5, 9)))
    usual = np.abs(gradients(make("relational"), [student], [teacher])[1][0]).max()
    student[3] = student[1]
    value, (slope,) = gradients(make("relational"), [student], [teacher])
    assert np.isfinite(value)
    assert np.abs(slope).max() < 20 * usual


def test_features_far_from_the_origin_keep_their_digits():
    (student,), (teacher,) = draw((6, 8)), draw((6, 8), seed=1)
    loss = make("relational")
    expected, _ = gradients(loss, [student], [teacher])
    value, _ = gradients(loss, [(student + 100).astype("float32")], [(teacher - 100).astype("float32")])
    assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_one_example_has_no_relations(dtype):
    student, teacher = (array.astype(dtype) for array in draw((1, 8), (1, 9)))
    value, (slope,) = gradients(make("relational"), [student], [teacher])
    assert value == 0.0
    assert not slope.any()


def test_large_features_are_finite():
    student, teacher = (1e20 * array.astype("float32") for array in draw((5, 8), (5, 9)))
    value, (slope,) = gradients(make("relational"), [student], [teacher])
    assert np.isfinite(value) and np.isfinite(slope).all()
