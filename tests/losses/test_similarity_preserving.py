"""Similarity preserving against the published code.

torchdistill's ChSim is the likeness of the channels of each example. Left out: c4, where torchdistill divides the
rows by their L1 norm; INDEX.md calls it a bug.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import check, draw, gradients
from published import Case, mean

from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("sp", number, dtype, "similarity_preserving")
    loss, teacher = make("similarity_preserving"), case.several("teacher")
    names = [f"student{place}" for place in range(len(teacher))]
    case.check(lambda *student: mean(loss, student=list(student), teacher=teacher), inputs=names)


def test_similarity_of_channels_agrees_with_the_published_code(dtype):
    # The channels of one example stand for the batch; the peer divides by channels · examples², not by channels².
    import tensorflow as tf

    case = Case("extra", 0, dtype, "similarity_preserving")
    loss = make("similarity_preserving")
    examples, _, _, channels = case["student"].shape

    def formula(student):
        ours, theirs = (tf.transpose(side, (0, 3, 1, 2)) for side in (student, case["teacher"]))
        found = sum(loss(student=one, teacher=other) for one, other in zip(ours, theirs, strict=True))
        return channels / examples**2 * found

    case.check(formula)


def test_features_of_any_shape_are_flattened():
    def similarities(feature):
        flat = feature.reshape(len(feature), -1)
        return np.array([row / np.linalg.norm(row) for row in flat @ flat.T])

    def formula(student, teacher):
        return ((similarities(student[0]) - similarities(teacher[0])) ** 2).sum() / len(student[0]) ** 2

    check(make("similarity_preserving"), formula, draw((4, 3, 2, 2)), draw((4, 5), seed=1))


def test_an_example_without_any_activation_has_a_small_gradient():
    # The published code divides by 1e-12 there: its gradient is of the order of 1e11.
    (student,), (teacher,) = draw((5, 8)), draw((5, 12), seed=1)
    usual = np.abs(gradients(make("similarity_preserving"), [student], [teacher])[1][0]).max()
    student[1] = 0.0
    _, (slope,) = gradients(make("similarity_preserving"), [student], [teacher])
    assert np.abs(slope).max() < 20 * usual


def test_large_features_are_finite_and_do_not_depend_on_the_scale():
    (student,), (teacher,) = draw((5, 8)), draw((5, 12), seed=1)
    loss = make("similarity_preserving")
    expected, _ = gradients(loss, [student], [teacher])
    value, (slope,) = gradients(loss, [(1e20 * student).astype("float32")], [teacher.astype("float32")])
    assert value == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(slope).all()
