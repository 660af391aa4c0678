"""Attention transfer against the published code.

Case c6 is `mode: paper`. In c8 KD_Lib pools no channels: each number is a position of one channel.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import check, draw, gradients, match_sizes
from published import Case, mean

from kdcli.errors import UsageError
from kdcli.losses import make


@pytest.mark.parametrize(("number", "options"), [(0, {}), (2, {}), (4, {"p": 1}), (6, {"mode": "paper"})])
def test_agrees_with_the_published_code(number, options, dtype):
    case = Case("at", number, dtype, "attention_transfer")
    loss, teacher = make("attention_transfer", **options), case.several("teacher")
    names = [f"student{place}" for place in range(len(teacher))]
    case.check(lambda *student: mean(loss, student=list(student), teacher=teacher), inputs=names)


def test_vectors_agree_with_the_published_code(dtype):
    case = Case("at", 8, dtype, "attention_transfer")
    loss, teacher = make("attention_transfer"), [target[..., None] for target in case.several("teacher")]

    def formula(*student):
        return mean(loss, student=[feature[..., None] for feature in student], teacher=teacher)

    case.check(formula, inputs=[f"student{place}" for place in range(len(teacher))])


@pytest.mark.parametrize("mode", ["code", "paper"])
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_any_power_and_maps_of_any_size(mode, p):
    def attention(feature):
        flat = (feature**p).mean(axis=-1).reshape(len(feature), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def formula(student, teacher):
        total = 0.0
        for feature, target in zip(student, teacher, strict=True):
            feature, target = match_sizes(feature, target)
            squares = (attention(feature) - attention(target)) ** 2
            total += squares.mean() if mode == "code" else np.sqrt(squares.sum(axis=1)).mean()
        return total

    student, teacher = draw((2, 7, 5, 3), (2, 3, 4, 4)), draw((2, 4, 6, 5), (2, 6, 3, 2), seed=1)
    check(make("attention_transfer", p=p, mode=mode), formula, student, teacher)


@pytest.mark.parametrize(("p", "mode"), [(1, "code"), (2, "code"), (3, "paper")])
def test_a_map_without_any_activation_has_a_small_gradient(p, mode):
    student, teacher = draw((3, 3, 3, 4), (3, 3, 3, 5))
    student[1] = 0.0
    teacher[2] = 0.0
    _, (slope,) = gradients(make("attention_transfer", p=p, mode=mode), [student], [teacher])
    assert np.abs(slope).max() < 10
    assert not slope[1].any()


def test_high_powers_of_large_features_are_finite_and_do_not_depend_on_the_scale():
    (student,), (teacher,) = draw((2, 3, 3, 4)), draw((2, 3, 3, 4), seed=1)
    loss = make("attention_transfer", p=8)
    expected, _ = gradients(loss, [student], [teacher])
    value, (slope,) = gradients(loss, [(1e6 * student).astype("float32")], [(1e6 * teacher).astype("float32")])
    assert value == pytest.approx(expected, rel=1e-4)
    assert np.isfinite(slope).all() and slope.any()


def test_the_steps_of_a_sequence_are_its_positions():
    (student,), (teacher,) = draw((2, 5, 3)), draw((2, 5, 4), seed=1)
    as_maps = [student[:, :, None]], [teacher[:, :, None]]
    loss = make("attention_transfer")
    assert gradients(loss, [student], [teacher])[0] == pytest.approx(gradients(loss, *as_maps)[0])


@pytest.mark.parametrize("p", [0, 1.5])
def test_invalid_power_is_refused(p):
    with pytest.raises(UsageError, match="attention_transfer: p: Input should be"):
        make("attention_transfer", p=p)
