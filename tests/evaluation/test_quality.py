"""Figures of answers, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from kdcli.evaluation.quality import measure_agreement, measure_calibration_error, measure_quality
from kdcli.evaluation.statistics import wilson_interval

RANDOM = np.random.default_rng(0)
CLASSES = 8
LABELS = RANDOM.integers(0, CLASSES, 300)
LOGITS = RANDOM.normal(size=(300, CLASSES)).astype(np.float32) + 1.5 * np.eye(CLASSES)[LABELS].astype(np.float32)
MANY = (RANDOM.random((200, 4)) < 0.3).astype(np.float32)
SCORES = RANDOM.normal(size=(200, 4)) + MANY
TRUTH = RANDOM.normal(size=(100, 2)) * [1, 3]
VALUES = TRUTH + RANDOM.normal(size=(100, 2)) / 2


def chances(logits):
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(-1, keepdims=True)


def found(task="classification", logits=LOGITS, labels=LABELS, **more):
    return measure_quality(logits, labels, task=task, **more)


def test_classification_figures_equal_those_of_scikit_learn():
    quality, decided = found(), LOGITS.argmax(-1)
    assert quality.examples == 300
    assert quality.accuracy == pytest.approx(metrics.accuracy_score(LABELS, decided))
    assert quality.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(LABELS, decided))
    assert quality.macro_f1 == pytest.approx(metrics.f1_score(LABELS, decided, average="macro"))
    assert quality.loss == pytest.approx(metrics.log_loss(LABELS, chances(LOGITS)), rel=1e-6)
    assert quality.top5 == pytest.approx(metrics.top_k_accuracy_score(LABELS, LOGITS, k=5))


def test_the_accuracy_has_its_interval():
    quality = found()
    assert (quality.low, quality.high) == wilson_interval(round(quality.accuracy * 300), 300)
    assert quality.low < quality.accuracy < quality.high


def test_the_calibration_error_equals_a_loop_over_bins():
    probabilities = chances(LOGITS)
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == LABELS
    expected = 0.0
    for number in range(15):
        inside = (confidence >= number / 15) & (confidence < (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert found().ece == pytest.approx(expected, abs=1e-9)


def test_full_confidence_belongs_to_the_last_bin():
    assert measure_calibration_error(np.ones(4), np.array([True, True, True, False])) == pytest.approx(0.25)


def test_classes_that_do_not_occur_leave_balanced_accuracy_alone():
    labels = np.where(LABELS == 3, 2, LABELS)
    expected = np.mean([np.mean(LOGITS[labels == c].argmax(-1) == c) for c in np.unique(labels)])
    assert found(labels=labels).balanced_accuracy == pytest.approx(expected)


def test_top_five_means_nothing_with_five_classes():
    labels = LABELS % 5
    assert found(logits=LOGITS[:, :5], labels=labels).top5 is None


def test_the_loss_of_huge_logits_is_finite():
    quality = found(logits=np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32), labels=np.array([0, 0]))
    assert quality.loss == pytest.approx(1e4)


def test_multilabel_figures_equal_those_of_scikit_learn():
    quality, decided = found("multilabel", SCORES, MANY), SCORES > 0
    assert quality.macro_f1 == pytest.approx(metrics.f1_score(MANY, decided, average="macro"))
    assert quality.micro_f1 == pytest.approx(metrics.f1_score(MANY, decided, average="micro"))
    expected = metrics.average_precision_score(MANY, SCORES, average="macro")
    assert quality.mean_average_precision == pytest.approx(expected)
    single = 1 / (1 + np.exp(-SCORES))
    losses = [metrics.log_loss(MANY[:, column], single[:, column]) for column in range(4)]
    assert quality.loss == pytest.approx(np.mean(losses))
    assert quality.accuracy == pytest.approx(np.mean(decided == MANY))


def test_equal_scores_give_the_average_precision_of_scikit_learn_whatever_their_order():
    scores = np.round(SCORES)
    expected = metrics.average_precision_score(MANY, scores, average="macro")
    for order in (np.arange(200), np.argsort(MANY[:, 0]), np.argsort(-MANY[:, 0])):
        quality = found("multilabel", scores[order], MANY[order])
        assert quality.mean_average_precision == pytest.approx(expected)


def test_labels_that_never_occur_have_no_average_precision():
    assert found("multilabel", SCORES, np.zeros_like(MANY)).mean_average_precision is None


def test_regression_figures_equal_those_of_scikit_learn():
    quality = found("regression", VALUES, TRUTH)
    assert quality.mae == pytest.approx(metrics.mean_absolute_error(TRUTH, VALUES))
    assert quality.rmse == pytest.approx(np.sqrt(metrics.mean_squared_error(TRUTH, VALUES)))
    assert quality.r2 == pytest.approx(metrics.r2_score(TRUTH, VALUES, multioutput="variance_weighted"))
    assert quality.loss == pytest.approx(quality.rmse**2)
    assert quality.accuracy is None


def test_one_value_an_example_may_be_a_vector():
    quality = found("regression", VALUES[:, :1], TRUTH[:, 0])
    assert quality.r2 == pytest.approx(metrics.r2_score(TRUTH[:, 0], VALUES[:, 0]))


def test_values_without_spread_have_no_r2():
    assert found("regression", np.ones((3, 1)), np.full((3, 1), 2.0)).r2 is None


def test_mean_iou_by_hand():
    labels = np.array([[[0, 0, 1, 1], [0, 0, 1, 1]]])
    decided = np.array([[[0, 0, 0, 1], [0, 0, 0, 1]]])
    quality = found("segmentation", np.eye(4)[decided] * 9, labels)
    # Class 0: 4 of 6; class 1: 2 of 4; classes 2 and 3 occur nowhere.
    assert quality.mean_iou == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert quality.accuracy == pytest.approx(6 / 8)
    expected = -np.log(chances(np.eye(4)[decided] * 9))[0][np.indices((2, 4))[0], np.indices((2, 4))[1], labels[0]]
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
def test_agreement_is_the_share_of_equal_decisions(task, ours, theirs, expected):
    assert measure_agreement(np.array(ours, float), np.array(theirs, float), task=task) == expected


def test_agreement_with_a_teacher_is_measured_beside_the_rest():
    assert found(teacher=LOGITS).agreement == 1.0
    assert found(teacher=-LOGITS).agreement < 0.1
    assert found().agreement is None


def test_without_labels_only_the_agreement_is_measured():
    quality = found(labels=None, teacher=LOGITS)
    assert (quality.examples, quality.agreement) == (300, 1.0)
    assert (quality.accuracy, quality.loss, quality.ece, quality.low) == (None, None, None, None)
