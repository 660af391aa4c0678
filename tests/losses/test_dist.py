"""DIST against the published code and its formula.

Ours is the convention of the authors' code: 1e-8 is added to the product of the norms. torchdistill clamps each
norm instead (dist c5), which differs by 3e-8 of the loss.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import compare, logits, softmax
from published import Case, mean

from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2, 4])
def test_agrees_with_the_published_code(number, dtype):
    # c4 has maps: positions are examples.
    case = Case("dist", number, dtype, "dist")
    loss = make("dist", **{name: case.hyper(name) for name in ("beta", "gamma", "tau")})
    case.check(lambda student: mean(loss, student=student, teacher=case["teacher"]))


def correlation(first, second):
    first, second = first - first.mean(), second - second.mean()
    return np.sum(first * second) / (np.sqrt(np.sum(first**2)) * np.sqrt(np.sum(second**2)) + 1e-8)


@pytest.mark.parametrize("shape", [(4, 5), (7, 2), (2, 2, 3, 4)], ids=str)
@pytest.mark.parametrize(("beta", "gamma", "tau"), [(1.0, 2.0, 4.0), (0.0, 1.0, 1.0), (3.0, 0.0, 0.5)])
def test_agrees_with_the_formula(shape, beta, gamma, tau):
    def written_again(student, teacher):
        p, q = (softmax(side / tau).reshape(-1, shape[-1]) for side in (student, teacher))
        between = 1 - np.mean([correlation(a, b) for a, b in zip(p, q, strict=True)])
        within = 1 - np.mean([correlation(a, b) for a, b in zip(p.T, q.T, strict=True)])
        return tau**2 * (beta * between + gamma * within)

    given = logits(*shape)
    del given["labels"]
    compare(make("dist", beta=beta, gamma=gamma, tau=tau), written_again, **given)


def value_and_gradient(loss, student, teacher):
    import tensorflow as tf

    student, teacher = tf.constant(student, "float32"), tf.constant(teacher, "float32")
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss(student=student, teacher=teacher)
    return float(value), tape.gradient(value, student).numpy()


def test_one_example_alone_has_no_relation_within_a_class():
    given = logits(1, 5)
    value, slope = value_and_gradient(make("dist", beta=0.0), given["student"], given["teacher"])
    assert value == pytest.approx(1.0)
    assert not slope.any()
    value, slope = value_and_gradient(make("dist"), given["student"], given["teacher"])
    assert value > 1.0
    assert slope.any()


def test_student_with_constant_logits_has_a_small_gradient():
    # Dividing by 0 + 1e-8 would give 1e7.
    value, slope = value_and_gradient(make("dist"), np.zeros((4, 5)), logits(4, 5)["teacher"])
    assert value == pytest.approx(2.0)
    assert 0 < np.abs(slope).max() < 1
