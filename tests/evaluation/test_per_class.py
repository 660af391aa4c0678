"""Precision, recall and F1 of every class, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from kdcli.evaluation.per_class import measure_classes

NAMES = ("cat", "dog", "owl", "yak")


def random_answers(shape=(200,), seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, shape)
    logits = random.normal(size=(*shape, 4)) + 1.5 * np.eye(4)[labels]
    return logits, labels


@pytest.mark.parametrize(("task", "shape"), [("classification", (200,)), ("segmentation", (6, 5, 5))])
def test_figures_are_those_of_scikit_learn(task, shape):
    logits, labels = random_answers(shape)
    found = measure_classes(logits, labels, task=task, names=NAMES)
    expected = precision_recall_fscore_support(labels.ravel(), logits.argmax(-1).ravel())
    shown = [[getattr(one, name) for one in found] for name in ("precision", "recall", "f1", "examples")]
    assert np.array(shown) == pytest.approx(np.array(expected))
    assert [one.name for one in found] == list(NAMES)
    assert all(one.change is None for one in found)


def test_multilabel_counts_each_output():
    random = np.random.default_rng(0)
    labels, logits = random.integers(0, 2, (50, 4)), random.normal(size=(50, 4))
    found = measure_classes(logits, labels, task="multilabel", names=NAMES)
    expected = precision_recall_fscore_support(labels, logits > 0)
    assert [one.f1 for one in found] == pytest.approx(expected[2])
    assert [one.examples for one in found] == expected[3].tolist()


def test_change_is_of_f1_against_the_teacher():
    logits, labels = random_answers()
    teacher = np.eye(4)[labels]
    own = measure_classes(logits, labels, task="classification", names=NAMES)
    beside = measure_classes(logits, labels, task="classification", names=NAMES, teacher=teacher)
    assert [one.change for one in beside] == pytest.approx([one.f1 - 1 for one in own])


def test_class_that_is_not_there_is_none_and_not_nan():
    found = measure_classes(np.eye(4)[[0, 0, 1]], np.array([0, 1, 1]), task="classification", names=NAMES)
    assert (found[2].examples, found[2].precision, found[2].recall, found[2].f1) == (0, None, None, None)
    assert found[0].precision == 0.5
