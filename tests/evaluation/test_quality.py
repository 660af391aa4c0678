"""Metrics of predictions, compared with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics
from sklearn.metrics import precision_recall_fscore_support

from kdcli.evaluation.quality import measure_agreement, measure_calibration_error, measure_classes, measure_quality
from kdcli.evaluation.statistics import wilson_interval

RANDOM = np.random.default_rng(0)
CLASSES = 8
LABELS = RANDOM.integers(0, CLASSES, 300)
LOGITS = RANDOM.normal(size=(300, CLASSES)).astype(np.float32) + 1.5 * np.eye(CLASSES)[LABELS].astype(np.float32)
MANY = (RANDOM.random((200, 4)) < 0.3).astype(np.float32)
SCORES = RANDOM.normal(size=(200, 4)) + MANY
TRUTH = RANDOM.normal(size=(100, 2)) * [1, 3]
VALUES = TRUTH + RANDOM.normal(size=(100, 2)) / 2


def softmax(logits):
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


def measure(task="classification", logits=LOGITS, labels=LABELS, **more):
    return measure_quality(logits, labels, task=task, **more)


def test_classification_metrics_equal_scikit_learn():
    quality, predicted = measure(), LOGITS.argmax(-1)
    assert quality.examples == 300
    assert quality.accuracy == pytest.approx(metrics.accuracy_score(LABELS, predicted))
    assert quality.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(LABELS, predicted))
    assert quality.macro_f1 == pytest.approx(metrics.f1_score(LABELS, predicted, average="macro"))
    assert quality.loss == pytest.approx(metrics.log_loss(LABELS, softmax(LOGITS)), rel=1e-6)
    assert quality.top5 == pytest.approx(metrics.top_k_accuracy_score(LABELS, LOGITS, k=5))


def test_accuracy_has_a_wilson_interval():
    quality = measure()
    assert (quality.low, quality.high) == wilson_interval(round(quality.accuracy * 300), 300)
    assert quality.low < quality.accuracy < quality.high


def test_calibration_error_equals_a_loop_over_bins():
    probabilities = softmax(LOGITS)
    confidence, correct = probabilities.max(-1), probabilities.argmax(-1) == LABELS
    expected = 0.0
    for number in range(15):
        inside = (confidence >= number / 15) & (confidence < (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert measure().ece == pytest.approx(expected, abs=1e-9)


def test_a_confidence_of_1_is_in_the_last_bin():
    assert measure_calibration_error(np.ones(4), np.array([True, True, True, False])) == pytest.approx(0.25)


def test_classes_that_do_not_occur_are_not_in_balanced_accuracy():
    labels = np.where(LABELS == 3, 2, LABELS)
    expected = np.mean([np.mean(LOGITS[labels == c].argmax(-1) == c) for c in np.unique(labels)])
    assert measure(labels=labels).balanced_accuracy == pytest.approx(expected)


def test_top5_is_none_for_five_classes():
    labels = LABELS % 5
    assert measure(logits=LOGITS[:, :5], labels=labels).top5 is None


def test_loss_of_huge_logits_is_finite():
    quality = measure(logits=np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32), labels=np.array([0, 0]))
    assert quality.loss == pytest.approx(1e4)


def test_multilabel_metrics_equal_scikit_learn():
    quality, predicted = measure("multilabel", SCORES, MANY), SCORES > 0
    assert quality.macro_f1 == pytest.approx(metrics.f1_score(MANY, predicted, average="macro"))
    assert quality.micro_f1 == pytest.approx(metrics.f1_score(MANY, predicted, average="micro"))
    expected = metrics.average_precision_score(MANY, SCORES, average="macro")
    assert quality.mean_average_precision == pytest.approx(expected)
    single = 1 / (1 + np.exp(-SCORES))
    losses = [metrics.log_loss(MANY[:, column], single[:, column]) for column in range(4)]
    assert quality.loss == pytest.approx(np.mean(losses))
    assert quality.accuracy == pytest.approx(np.mean(predicted == MANY))


def test_average_precision_with_equal_scores_equals_scikit_learn_in_any_order():
    scores = np.round(SCORES)
    expected = metrics.average_precision_score(MANY, scores, average="macro")
    for order in (np.arange(200), np.argsort(MANY[:, 0]), np.argsort(-MANY[:, 0])):
        quality = measure("multilabel", scores[order], MANY[order])
        assert quality.mean_average_precision == pytest.approx(expected)


def test_average_precision_is_none_if_no_label_occurs():
    assert measure("multilabel", SCORES, np.zeros_like(MANY)).mean_average_precision is None


def test_regression_metrics_equal_scikit_learn():
    quality = measure("regression", VALUES, TRUTH)
    assert quality.mae == pytest.approx(metrics.mean_absolute_error(TRUTH, VALUES))
    assert quality.rmse == pytest.approx(np.sqrt(metrics.mean_squared_error(TRUTH, VALUES)))
    assert quality.r2 == pytest.approx(metrics.r2_score(TRUTH, VALUES, multioutput="variance_weighted"))
    assert quality.loss == pytest.approx(quality.rmse**2)
    assert quality.accuracy is None


def test_values_may_be_a_vector():
    quality = measure("regression", VALUES[:, :1], TRUTH[:, 0])
    assert quality.r2 == pytest.approx(metrics.r2_score(TRUTH[:, 0], VALUES[:, 0]))


def test_r2_is_none_for_constant_labels():
    assert measure("regression", np.ones((3, 1)), np.full((3, 1), 2.0)).r2 is None


def test_mean_iou_equals_a_manual_count():
    labels = np.array([[[0, 0, 1, 1], [0, 0, 1, 1]]])
    predicted = np.array([[[0, 0, 0, 1], [0, 0, 0, 1]]])
    quality = measure("segmentation", np.eye(4)[predicted] * 9, labels)
    # Class 0: 4 of 6; class 1: 2 of 4; classes 2 and 3 do not occur.
    assert quality.mean_iou == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert quality.accuracy == pytest.approx(6 / 8)
    expected = -np.log(softmax(np.eye(4)[predicted] * 9))[0][
        np.indices((2, 4))[0], np.indices((2, 4))[1], labels[0]
    ]
    assert quality.loss == pytest.approx(expected.mean())


@pytest.mark.parametrize(
    ("task", "ours", "theirs", "expected"),
    [
        ("classification", [[1, 2], [2, 1], [5, 0]], [[0, 9], [0, 9], [1, 0]], 2 / 3),
        ("multilabel", [[1, -1], [2, 1]], [[3, 3], [0.1, 7]], 3 / 4),
        ("segmentation", [[[1, 0], [0, 1]]], [[[1, 0], [1, 0]]], 1 / 2),
        ("regression", [[1.0]], [[1.0]], None),
    ],
)
def test_agreement_is_the_fraction_of_equal_predictions(task, ours, theirs, expected):
    assert measure_agreement(np.array(ours, float), np.array(theirs, float), task=task) == expected


def test_agreement_is_measured_if_there_is_a_teacher():
    assert measure(teacher=LOGITS).agreement == 1.0
    assert measure(teacher=-LOGITS).agreement < 0.1
    assert measure().agreement is None


def test_without_labels_only_the_agreement_is_measured():
    quality = measure(labels=None, teacher=LOGITS)
    assert (quality.examples, quality.agreement) == (300, 1.0)
    assert (quality.accuracy, quality.loss, quality.ece, quality.low) == (None, None, None, None)


NAMES = ("cat", "dog", "owl", "yak")


def random_predictions(shape=(200,), seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, shape)
    logits = random.normal(size=(*shape, 4)) + 1.5 * np.eye(4)[labels]
    return logits, labels


@pytest.mark.parametrize(("task", "shape"), [("classification", (200,)), ("segmentation", (6, 5, 5))])
def test_metrics_of_classes_equal_scikit_learn(task, shape):
    logits, labels = random_predictions(shape)
    found = measure_classes(logits, labels, task=task, names=NAMES)
    expected = precision_recall_fscore_support(labels.ravel(), logits.argmax(-1).ravel())
    metrics_of_classes = [
        [getattr(one, name) for one in found] for name in ("precision", "recall", "f1", "examples")
    ]
    assert np.array(metrics_of_classes) == pytest.approx(np.array(expected))
    assert [one.name for one in found] == list(NAMES)
    assert all(one.change is None for one in found)


def test_each_output_of_multilabel_is_a_class():
    random = np.random.default_rng(0)
    labels, logits = random.integers(0, 2, (50, 4)), random.normal(size=(50, 4))
    found = measure_classes(logits, labels, task="multilabel", names=NAMES)
    expected = precision_recall_fscore_support(labels, logits > 0)
    assert [one.f1 for one in found] == pytest.approx(expected[2])
    assert [one.examples for one in found] == expected[3].tolist()


def test_change_is_the_difference_in_f1_from_the_teacher():
    logits, labels = random_predictions()
    teacher = np.eye(4)[labels]
    own = measure_classes(logits, labels, task="classification", names=NAMES)
    compared = measure_classes(logits, labels, task="classification", names=NAMES, teacher=teacher)
    assert [one.change for one in compared] == pytest.approx([one.f1 - 1 for one in own])


def test_class_that_does_not_occur_has_none_and_not_nan():
    found = measure_classes(np.eye(4)[[0, 0, 1]], np.array([0, 1, 1]), task="classification", names=NAMES)
    assert (found[2].examples, found[2].precision, found[2].recall, found[2].f1) == (0, None, None, None)
    assert found[0].precision == 0.5
