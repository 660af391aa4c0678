"""Normalised distillation against the published code and its formula."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import compare, logits, softmax
from published import Case, mean

from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("nkd", number, dtype, "normalized")
    loss = make("normalized", gamma=case.hyper("gamma"), temperature=case.hyper("temperature"))
    case.check(lambda student: mean(loss, student=student, teacher=case["teacher"], labels=case.arrays["labels"]))


def written_again(student, teacher, labels, *, gamma, temperature):
    total = 0.0
    for ours, theirs, label in zip(student, teacher, labels, strict=True):
        total -= softmax(theirs)[label] * np.log(softmax(ours)[label])
        p, q = (softmax(np.delete(row, label) / temperature) for row in (ours, theirs))
        total -= gamma * temperature**2 * np.sum(q * np.log(p))
    return total / len(student)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize(("gamma", "temperature"), [(1.5, 1.0), (0.0, 1.0), (0.5, 4.0)])
def test_agrees_with_the_formula(classes, gamma, temperature):
    options = {"gamma": gamma, "temperature": temperature}
    compare(make("normalized", **options), lambda **given: written_again(**given, **options), **logits(5, classes))
