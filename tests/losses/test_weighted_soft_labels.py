"""Weighted soft labels against their formula; no case of the published code is shipped.

The published code adds 1e-7 to the teacher's cross-entropy; so do we.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import compare, logits, softmax

from kdcli.losses import make


def weights_of(student, teacher, labels):
    rows = np.arange(len(labels))
    ours, theirs = (-np.log(softmax(side)[rows, labels]) for side in (student, teacher))
    return 1 - np.exp(-ours / (theirs + 1e-7))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("classes", [2, 8])
def test_it_is_the_formula_with_a_weight_that_has_no_gradient(classes, temperature):
    given = logits(5, classes)
    weights = weights_of(**given)

    def written_again(student, teacher, labels):
        entropy = -np.sum(softmax(teacher / temperature) * np.log(softmax(student / temperature)), axis=-1)
        return temperature**2 * np.mean(weights * entropy)

    compare(make("weighted_soft_labels", temperature=temperature), written_again, **given)


def test_what_the_student_knows_better_than_its_teacher_counts_little():
    knows, does_not = [[6.0, 0.0, 0.0]], [[0.0, 6.0, 0.0]]
    loss, plain = make("weighted_soft_labels"), make("soft_cross_entropy", temperature=2.0)
    for student, teacher, least, most in ((knows, does_not, 0.0, 0.01), (does_not, knows, 0.99, 1.0)):
        share = loss(student=student, teacher=teacher, labels=[0]) / plain(student=student, teacher=teacher)
        assert least < float(share[0]) <= most


def test_its_weight_and_temperature_are_the_published_ones():
    loss = make("weighted_soft_labels")
    assert (loss.weight, loss.temperature) == (2.25, 2.0)
