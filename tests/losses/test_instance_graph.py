"""Instance graphs against a numpy formula of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import check, draw, gradients

from kdcli.errors import UsageError
from kdcli.losses import make

ONLY = {"vertex": 0.0, "edge": 0.0, "transform": 0.0}


def edges(feature):
    flat = feature.reshape(len(feature), -1)
    distances = np.array([[((a - b) ** 2).sum() for b in flat] for a in flat])
    return distances / distances.max()


def formula_of(loss):
    def formula(student, teacher):
        total = 0.0
        for feature, target in zip(student, teacher, strict=True):
            if feature.shape == target.shape:
                total += loss.vertex * ((feature - target) ** 2).mean()
            total += loss.edge * ((edges(feature) - edges(target)) ** 2).mean()
        for place in range(len(student) - 1):
            ours, theirs = ((edges(side[place]) - edges(side[place + 1])) ** 2 for side in (student, teacher))
            total += loss.transform * ((ours - theirs) ** 2).mean()
        return total

    return formula


@pytest.mark.parametrize("options", [{}, {**ONLY, "edge": 2.0}, {**ONLY, "transform": 3.0}], ids=str)
def test_agrees_with_the_formula(options):
    loss = make("instance_graph", **options)
    shapes = (4, 3, 2, 2), (4, 2, 3), (4, 5)
    check(loss, formula_of(loss), draw(*shapes), draw(*shapes, seed=1))


def test_a_student_of_other_widths_learns_edges_and_transforms():
    loss = make("instance_graph")
    student, teacher = draw((4, 3), (4, 6)), draw((4, 7), (4, 2, 2, 3), seed=1)
    check(loss, formula_of(loss), student, teacher)
    without = make("instance_graph", vertex=0.0)
    assert gradients(loss, student, teacher)[0] == gradients(without, student, teacher)[0]


def test_equal_examples_have_no_edges():
    student, teacher = [np.ones((4, 3)), np.ones((4, 5))], draw((4, 7), (4, 6))
    value, slopes = gradients(make("instance_graph"), student, teacher)
    assert np.isfinite(value)
    assert not any(slope.any() for slope in slopes)


def test_large_features_have_the_edges_of_small_ones():
    student, teacher = draw((4, 3), (4, 6)), draw((4, 7), (4, 5), seed=1)
    large = [(1e20 * feature).astype("float32") for feature in student]
    value, slopes = gradients(make("instance_graph"), large, [feature.astype("float32") for feature in teacher])
    assert value == pytest.approx(gradients(make("instance_graph"), student, teacher)[0], rel=1e-4)
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_a_graph_without_edges_is_refused():
    with pytest.raises(UsageError, match="use kind: hint, which compares vertices only"):
        make("instance_graph", edge=0.0, transform=0.0)


def test_one_layer_is_refused():
    with pytest.raises(ValueError, match=r"needs at least 2 layers \(got 1\)"):
        make("instance_graph")(student=np.ones((4, 3)), teacher=np.ones((4, 3)))
