"""Decoupled distillation against the published code and its formula."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import compare, logits, softmax
from published import Case, mean

from kdcli.errors import UsageError
from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2, 4, 6])
def test_agrees_with_the_published_code(number, dtype):
    # c4 has alpha 0; c6 standardises the logits.
    case = Case("dkd", number, dtype, "decoupled")
    options = {name: case.hyper(name) for name in ("alpha", "beta", "temperature")}
    loss = make("decoupled", standardize=number == 6, **options)
    case.check(lambda student: mean(loss, student=student, teacher=case["teacher"], labels=case.arrays["labels"]))


def written_again(student, teacher, labels, *, alpha, beta, temperature):
    """The two divergences with the target's column cut out, example by example."""
    total = 0.0
    for ours, theirs, label in zip(student / temperature, teacher / temperature, labels, strict=True):
        p, q = softmax(ours)[label], softmax(theirs)[label]
        target = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
        p, q = softmax(np.delete(ours, label)), softmax(np.delete(theirs, label))
        total += alpha * target + beta * np.sum(q * np.log(q / p))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (1.0, 0.0, 1.0), (0.5, 2.0, 0.5)])
def test_agrees_with_the_formula_also_for_two_classes(classes, alpha, beta, temperature):
    options = {"alpha": alpha, "beta": beta, "temperature": temperature}
    compare(make("decoupled", **options), lambda **given: written_again(**given, **options), **logits(5, classes))


def test_well_separated_logits_stay_finite_and_correct():
    # A gap of 800, where the published code gives inf and NaN: the target's share underflows.
    import tensorflow as tf

    student = tf.constant([[-400.0, 400.0, 0.0], [400.0, -400.0, 0.0]])
    teacher = tf.constant([[400.0, -400.0, 0.0], [400.0, -400.0, 0.0]])
    loss = make("decoupled", temperature=1.0, beta=1.0)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss(student=student, teacher=teacher, labels=[0, 0])
    # log(1) − log p is 800 for the target; of the others the teacher's share lies where the student's is e⁻⁴⁰⁰.
    assert value.numpy() == pytest.approx([1200.0, 0.0])
    assert tape.gradient(value, student).numpy() == pytest.approx(np.array([[-1, 2, -1], [0, 0, 0]]), abs=1e-6)


@pytest.mark.parametrize("kind", ["decoupled", "normalized", "weighted_soft_labels"])
def test_labels_that_do_not_name_one_class_are_refused(kind):
    given = logits(4, 3)
    for labels, said in (
        (
            np.eye(3)[given["labels"]],
            r"one class for each example \(got labels of shape \(4, 3\); expected \(4,\)\)",
        ),
        (None, f"{kind} needs labels="),
    ):
        with pytest.raises(ValueError, match=said):
            make(kind)(**{**given, "labels": labels})


def test_weights_below_zero_are_refused():
    with pytest.raises(UsageError, match="beta"):
        make("decoupled", beta=-1.0)
