"""Probabilistic transfer against the published code."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import check, draw, gradients
from published import Case, mean

from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("pkt", number, dtype, "probabilistic_transfer")
    loss = make("probabilistic_transfer")
    case.check(lambda student: mean(loss, student=student, teacher=case["teacher"]))


def neighbours(feature):
    flat = feature.reshape(len(feature), -1)
    flat = flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-7)
    likeness = (flat @ flat.T + 1) / 2
    return likeness / likeness.sum(axis=1, keepdims=True)


def formula(student, teacher):
    total = 0.0
    for feature, target in zip(student, teacher, strict=True):
        ours, theirs = neighbours(feature), neighbours(target)
        total += (theirs * np.log((theirs + 1e-7) / (ours + 1e-7))).mean()
    return total


def test_features_are_flattened_and_layers_summed():
    student, teacher = draw((4, 3, 2, 2), (4, 6)), draw((4, 5), (4, 2, 3), seed=1)
    check(make("probabilistic_transfer"), formula, student, teacher)


def test_an_example_without_any_activation_has_no_gradient():
    # The published gradient is NaN there.
    (student,), (teacher,) = draw((5, 8)), draw((5, 12), seed=1)
    student[1] = 0.0
    value, (slope,) = gradients(make("probabilistic_transfer"), [student], [teacher])
    assert value == pytest.approx(formula([student], [teacher]), rel=1e-10)
    assert np.isfinite(slope).all()
    assert slope.any(axis=1).tolist() == [True, False, True, True, True]


def test_long_and_opposite_rows_stay_finite():
    student = np.array([[1e30, 0.0], [-1e30, 0.0], [0.0, 1e30]], "float32")
    (teacher,) = draw((3, 4))
    value, (slope,) = gradients(make("probabilistic_transfer"), [student], [teacher.astype("float32")])
    assert value == pytest.approx(formula([student.astype("float64") / 1e26], [teacher]), rel=1e-5)
    assert np.isfinite(slope).all()
