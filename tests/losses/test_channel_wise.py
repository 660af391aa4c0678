"""Channel-wise distillation against a numpy formula of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import check, draw, gradients

from kdcli.losses import make


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_agrees_with_the_formula(tau):
    def formula(student, teacher):
        total = 0.0
        for feature, target in zip(student, teacher, strict=True):
            divergences = []
            for example in range(len(feature)):
                for channel in range(feature.shape[-1]):
                    ours, theirs = (np.exp(side[example, ..., channel] / tau) for side in (feature, target))
                    ours, theirs = ours / ours.sum(), theirs / theirs.sum()
                    divergences.append((theirs * np.log(theirs / ours)).sum())
            total += tau**2 * np.mean(divergences)
        return total

    shapes = (3, 4, 2, 5), (3, 6, 2)
    check(make("channel_wise", tau=tau), formula, draw(*shapes), draw(*shapes, seed=1))


def test_loss_is_independent_of_the_level_of_a_channel():
    (student,) = draw((2, 3, 3, 4))
    value, (slope,) = gradients(make("channel_wise"), [student], [student + np.arange(4.0)])
    assert value == pytest.approx(0.0, abs=1e-12)
    assert slope == pytest.approx(np.zeros_like(slope), abs=1e-12)


def test_tau_may_change_over_training():
    student, teacher = draw((2, 3, 3, 4), (2, 3, 3, 4))
    changing = make("channel_wise", tau={"from": 4.0, "to": 1.0})
    for progress, tau in ((0.0, 4.0), (0.5, 2.5), (1.0, 1.0)):
        found, _ = gradients(changing, [student], [teacher], progress=progress)
        assert found == pytest.approx(gradients(make("channel_wise", tau=tau), [student], [teacher])[0])


def test_sharp_channels_are_finite():
    student = np.zeros((1, 2, 2, 1), "float32")
    student[0, 0, 0] = 1e4
    value, (slope,) = gradients(make("channel_wise"), [student], [student[:, ::-1].copy()])
    assert value == pytest.approx(1e4)
    assert np.isfinite(slope).all()


def test_different_shapes_need_a_projection():
    with pytest.raises(ValueError, match="a run adds a projection, a direct call needs equal shapes"):
        make("channel_wise")(student=np.ones((2, 3, 3, 4)), teacher=np.ones((2, 3, 3, 5)))
