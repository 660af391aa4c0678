"""Activation boundaries against the published code, RepDistiller's `ABLoss`: 3/1000, layer i times 2^(i − n + 1).

torchdistill's weighs layers as it is told and leaves 3/1000 out: 1000/3 times ours for one layer.
"""

from __future__ import annotations

import numpy as np
import pytest
from published import Case, mean

from kdcli.loss import Given
from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("ab", number, dtype, "activation_boundary")
    loss, teachers = make("activation_boundary", margin=case.hyper("margin")), case.several("teacher")
    names = [f"student{place}" for place in range(len(teachers))]
    case.check(lambda *students: mean(loss, student=list(students), teacher=teachers), inputs=names)


def test_weights_per_layer_agree_with_the_other_published_code(dtype):
    case = Case("ab", 4, dtype, "activation_boundary")
    loss, teachers = make("activation_boundary", margin=case.hyper("margin")), case.several("teacher")
    batch = int(teachers[0].shape[0])

    def summed(*students):
        terms = [mean(loss, student=s, teacher=t) for s, t in zip(students, teachers, strict=True)]
        # A sum over the batch instead of its mean, and the case's weights of 1 and 1/4.
        return batch * 1000 / 3 * (terms[0] + terms[1] / 4)

    case.check(summed, inputs=["student0", "student1"])


def test_deeper_pairs_count_more():
    random = np.random.default_rng(0)
    pairs = [[random.normal(size=(4, 3, 3, 2)).astype("float32") for _ in range(2)] for _ in range(3)]
    loss = make("activation_boundary")
    alone = [loss(student=student, teacher=teacher).numpy() for student, teacher in pairs]
    together = loss(student=[pair[0] for pair in pairs], teacher=[pair[1] for pair in pairs])
    assert together.numpy() == pytest.approx(alone[0] / 4 + alone[1] / 2 + alone[2], rel=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs", "kernels"),
    [
        ((4, 4, 3), (4, 4, 3), []),
        ((4, 4, 3), (4, 4, 5), [(1, 1, 3, 5)]),
        ((8, 8, 3), (4, 4, 5), [(3, 3, 3, 5)]),
        ((4, 4, 3), (8, 8, 5), [(4, 4, 5, 3)]),
        ((5, 6, 3), (3, 5, 5), [(3, 2, 3, 5)]),
        ((20, 20, 3), (5, 5, 3), [(1, 1, 3, 3)]),
        ((3, 3, 3), (5, 5, 3), [(1, 1, 3, 3)]),
        ((7,), (4,), [(7, 4)]),
    ],
    ids=str,
)
def test_regressor_maps_the_students_shape_to_the_teachers(ours, theirs, kernels):
    loss = make("activation_boundary")
    parts = loss.build(Given((ours,), (theirs,)))
    (layers,) = parts.trained["regressors"]
    assert [tuple(layer.kernel.shape) for layer in layers if hasattr(layer, "kernel")] == kernels
    random = np.random.default_rng(0)
    student, teacher = (random.normal(size=(2, *shape)).astype("float32") for shape in (ours, theirs))
    value = loss(student=student, teacher=teacher, parts=parts).numpy()
    assert value.shape == (2,)
    assert (value > 0).all()


def test_features_beyond_the_margin_have_no_loss():
    loss = make("activation_boundary", margin=0.5)
    assert loss(student=[[0.6, -0.6]], teacher=[[0.1, -3.0]]).numpy() == pytest.approx([0.0])
    assert loss(student=[[0.0, 0.0]], teacher=[[0.1, 0.0]]).numpy() == pytest.approx([0.003 * 0.5])


def test_other_channels_without_a_regressor_are_refused():
    with pytest.raises(ValueError, match=r"parts=loss\.build"):
        make("activation_boundary")(student=np.zeros((1, 3), "float32"), teacher=np.zeros((1, 4), "float32"))
