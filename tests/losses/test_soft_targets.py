"""Soft targets, soft cross-entropy and squared logits against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import compare, logits, softmax

from kdcli.losses import make


def unlabelled(*shape, seed=0):
    given = logits(*shape, seed=seed)
    del given["labels"]
    return given


def divergence(student, teacher, temperature):
    p, q = softmax(student / temperature), softmax(teacher / temperature)
    return temperature**2 * np.mean(np.sum(q * np.log(q / p), axis=-1))


@pytest.mark.parametrize("shape", [(1, 2), (8, 5), (2, 3, 5, 4), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_soft_targets_average_the_positions_of_maps_and_tokens(shape, temperature):
    def written_again(student, teacher):
        return divergence(student, teacher, temperature)

    compare(make("soft_targets", temperature=temperature), written_again, **unlabelled(*shape))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_standardized_logits_have_the_unbiased_deviation(classes):
    def z(rows):
        return (rows - rows.mean(-1, keepdims=True)) / (rows.std(-1, ddof=1, keepdims=True) + 1e-7)

    def written_again(student, teacher):
        return divergence(z(student), z(teacher), 2.0)

    compare(make("soft_targets", standardize=True), written_again, **unlabelled(5, classes, seed=2))


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_standardized_constant_logits_have_a_small_gradient(size):
    # Dividing by a deviation of 0 + 1e-7 would give a gradient of 1e6.
    import tensorflow as tf

    teacher = tf.constant([[2.0, 0.0, -1.0]])
    student = tf.fill((1, 3), 0.1 * size)
    loss = make("soft_targets", standardize=True)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss(student=student, teacher=teacher)
    flat = loss(student=teacher * 0.0, teacher=teacher)
    assert value.numpy() == pytest.approx(flat.numpy(), rel=1e-6)
    slope = tape.gradient(value, student).numpy()
    assert 0.1 < np.abs(slope).max() < 10
    assert slope.argmin() == 0


def test_huge_logits_keep_their_value():
    given = {name: 400 * array for name, array in unlabelled(4, 6).items()}

    def written_again(student, teacher):
        shifted = [side - side.max(-1, keepdims=True) for side in (student, teacher)]
        log_p, log_q = (side - np.log(np.exp(side).sum(-1, keepdims=True)) for side in shifted)
        return np.mean(np.sum(np.exp(log_q) * (log_q - log_p), axis=-1))

    compare(make("soft_targets", temperature=1.0), written_again, **given)


@pytest.mark.parametrize("shape", [(6, 3), (2, 5, 7)], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 8.0])
def test_soft_cross_entropy_keeps_the_entropy_of_the_teacher(shape, temperature):
    def written_again(student, teacher):
        p, q = softmax(student / temperature), softmax(teacher / temperature)
        return -(temperature**2) * np.mean(np.sum(q * np.log(p), axis=-1))

    compare(make("soft_cross_entropy", temperature=temperature), written_again, **unlabelled(*shape))


def test_a_temperature_for_each_example_divides_the_logits_beforehand():
    # TextBrewer's per-example temperatures, which have no T².
    by_row = np.array([[1.0], [2.0], [4.0], [0.5]])

    def entropy(student, teacher):
        return -np.mean(np.sum(softmax(teacher / by_row) * np.log(softmax(student / by_row)), axis=-1))

    def squared(student, teacher):
        return np.mean((student / by_row - teacher / by_row) ** 2)

    for kind, written_again in (("soft_cross_entropy", entropy), ("logit_mse", squared)):
        loss = make(kind)

        def scaled(student, teacher, loss=loss):
            return loss(student=student / by_row, teacher=teacher / by_row)

        compare(scaled, written_again, **unlabelled(4, 6))
