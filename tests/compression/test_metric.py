"""Metrics of a search: values, drops and their errors beside NumPy and SciPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from kdcli.compression.metric import PairedMetric, choose_metric
from kdcli.errors import UsageError
from kdcli.evaluation.quality import measure_quality

RANDOM = np.random.default_rng(0)
COUNT, CLASSES = 300, 4
LABELS = RANDOM.integers(0, CLASSES, COUNT)
TEACHER, STUDENT = (RANDOM.normal(size=(COUNT, CLASSES)) + 2 * np.eye(CLASSES)[LABELS] for _ in range(2))


def classification(name="accuracy", labels=LABELS):
    return PairedMetric(name, "classification", labels, TEACHER)


def test_the_drop_is_the_difference_of_the_accuracies():
    expected = (TEACHER.argmax(1) == LABELS).mean() - (STUDENT.argmax(1) == LABELS).mean()
    assert classification().drop(STUDENT) == pytest.approx(expected)


def test_an_error_that_is_lower_is_better_drops_upwards():
    values, before, after = (RANDOM.normal(size=(50, 1)) for _ in range(3))
    metric = PairedMetric("mae", "regression", values, before)
    assert metric.drop(after) == pytest.approx(np.abs(after - values).mean() - np.abs(before - values).mean())


def test_the_standard_error_of_a_mean_is_that_of_paired_differences():
    ours, theirs = ((one.argmax(1) == LABELS).astype(float) for one in (STUDENT, TEACHER))
    assert classification().standard_error(STUDENT, TEACHER) == pytest.approx(stats.sem(ours - theirs))


def test_the_standard_error_of_another_metric_is_resampled():
    metric = classification("balanced_accuracy")
    mean = classification().standard_error(STUDENT, TEACHER)
    # The classes are about equally frequent here, so that both metrics have nearly the same error.
    assert metric.standard_error(STUDENT, TEACHER) == pytest.approx(mean, rel=0.3)
    assert metric.standard_error(STUDENT, STUDENT) == 0


def test_the_interval_contains_the_drop_and_excludes_none_for_a_clear_one():
    low, high = classification().interval(STUDENT)
    assert low < classification().drop(STUDENT) < high
    assert classification().interval(RANDOM.normal(size=(COUNT, CLASSES)))[0] > 0


def segmentation(name="mean_iou"):
    random = np.random.default_rng(1)
    labels = random.integers(-1, 3, (12, 6, 5))
    teacher, student = (random.normal(size=(12, 6, 5, 3)) + 3 * np.eye(3)[labels.clip(0)] for _ in range(2))
    metric = PairedMetric(name, "segmentation", labels, np.zeros(0))
    return replace(metric, teacher=metric.reduce(teacher)), student, teacher, labels


@pytest.mark.parametrize("name", ["mean_iou", "accuracy", "agreement"])
def test_segmentation_is_measured_from_class_maps(name):
    metric, student, teacher, labels = segmentation(name)
    expected = measure_quality(student, labels, task="segmentation", teacher=teacher).metric(name)
    assert metric.measure(metric.reduce(student)) == pytest.approx(expected)


def test_the_standard_error_of_segmentation_is_resampled_over_images():
    metric, student, _, _ = segmentation()
    ours = metric.reduce(student)
    assert 0 < metric.standard_error(ours, metric.teacher) < 0.1
    assert metric.standard_error(ours, ours) == 0


def test_agreement_needs_no_labels():
    metric = classification("agreement", None)
    assert metric.measure(STUDENT) == pytest.approx((STUDENT.argmax(1) == TEACHER.argmax(1)).mean())
    assert metric.measure_teacher() == 1


@pytest.mark.parametrize(
    ("task", "labelled", "expected"),
    [
        ("classification", True, "accuracy"),
        ("classification", False, "agreement"),
        ("multilabel", True, "mean_average_precision"),
        ("segmentation", True, "mean_iou"),
        ("regression", True, "mae"),
    ],
)
def test_each_task_has_its_own_metric(task, labelled, expected):
    assert choose_metric(None, task, labelled=labelled) == expected


def test_a_metric_that_the_data_lacks_is_refused():
    with pytest.raises(
        UsageError, match="accuracy cannot be measured on unlabelled classification data"
    ) as caught:
        choose_metric("accuracy", "classification", labelled=False)
    assert caught.value.hint == "--min-agreement 0.95"
    with pytest.raises(UsageError, match="kd compress has no metric for unlabelled regression data"):
        choose_metric(None, "regression", labelled=False)
