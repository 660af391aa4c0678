"""Neuron selectivity against the published code."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import check, draw, gradients, match_sizes
from published import Case, mean

from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("nst", number, dtype, "neuron_selectivity")
    loss, teacher = make("neuron_selectivity"), case.several("teacher")
    names = [f"student{place}" for place in range(len(teacher))]
    case.check(lambda *student: mean(loss, student=list(student), teacher=teacher), inputs=names)


def test_maps_of_any_size_and_layers_summed():
    def channels(feature):
        flat = feature.reshape(len(feature), -1, feature.shape[-1]).swapaxes(1, 2)
        return flat / np.linalg.norm(flat, axis=2, keepdims=True)

    def kernel(first, second):
        return np.mean([(a @ b.T) ** 2 for a, b in zip(first, second, strict=True)])

    def formula(student, teacher):
        total = 0.0
        for feature, target in zip(student, teacher, strict=True):
            ours, theirs = (channels(side) for side in match_sizes(feature, target))
            total += kernel(theirs, theirs) + kernel(ours, ours) - 2 * kernel(ours, theirs)
        return total

    student, teacher = draw((2, 3, 3, 3), (2, 5, 2, 4)), draw((2, 6, 4, 4), (2, 3, 4, 2), seed=1)
    check(make("neuron_selectivity"), formula, student, teacher)


def test_a_dead_channel_has_no_gradient():
    student, teacher = draw((2, 3, 3, 3), (2, 3, 3, 4))
    student[..., 1] = 0.0
    teacher[..., 0] = 0.0
    _, (slope,) = gradients(make("neuron_selectivity"), [student], [teacher])
    assert np.abs(slope).max() < 10
    assert slope.any(axis=(0, 1, 2)).tolist() == [True, False, True]


def test_large_features_are_finite_and_do_not_depend_on_the_scale():
    (student,), (teacher,) = draw((2, 3, 3, 3)), draw((2, 3, 3, 4), seed=1)
    loss = make("neuron_selectivity")
    expected, _ = gradients(loss, [student], [teacher])
    value, (slope,) = gradients(loss, [(1e25 * student).astype("float32")], [teacher.astype("float32")])
    assert value == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(slope).all()
