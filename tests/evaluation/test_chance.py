"""Models at chance are distinguished from models that know a little."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from kdcli.errors import ModelError
from kdcli.evaluation.chance import describe_chance, measure_chance, refuse_teacher_at_chance
from kdcli.evaluation.quality import measure_quality

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 4, 300)
RARE = (RANDOM.random(400) < 0.05).astype(int)


def logits_of(predicted, classes=4):
    """Logits for predicted classes."""
    return np.eye(classes)[predicted] * 5


def at_chance(logits, labels, task="classification"):
    return measure_chance(logits, labels, task=task).at_chance


def partly(labels, correct, classes, seed=1):
    """Predictions that are correct for a fraction of the examples, and guessed for the others."""
    random = np.random.default_rng(seed)
    guessed = random.integers(0, classes, labels.shape)
    return np.where(random.random(labels.shape) < correct, labels, guessed)


@pytest.mark.parametrize(
    ("predicted", "labels", "guesses"),
    [
        (np.random.default_rng(2).integers(0, 4, 300), LABELS, True),
        (np.zeros(300, int), LABELS, True),
        ((LABELS + 1) % 4, LABELS, True),
        (partly(LABELS, 0.3, 4), LABELS, False),
        (LABELS, LABELS, False),
        # Always predicting the frequent class is 95% accurate, but at chance.
        (np.zeros(400, int), RARE, True),
        # Less accurate, but it finds the rare class.
        (np.where(np.random.default_rng(3).random(400) < 0.85, RARE, 1 - RARE), RARE, False),
        # Two examples are not enough to decide.
        (np.array([0, 1]), np.array([0, 1]), True),
    ],
)
def test_predictions_that_are_independent_of_the_labels_are_at_chance(predicted, labels, guesses):
    classes = 1 + int(labels.max())
    logits = logits_of(predicted, classes)
    chance = measure_chance(logits, labels, task="classification")
    assert chance.at_chance == guesses
    assert chance.value == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert chance.guessing == pytest.approx(1 / classes)
    assert measure_quality(logits, labels, task="classification").at_chance == guesses


def test_guessing_and_a_little_knowledge_are_distinguished_reliably():
    guessed = [at_chance(logits_of(partly(LABELS, 0.0, 4, seed)), LABELS) for seed in range(300)]
    known = [at_chance(logits_of(partly(LABELS, 0.2, 4, seed)), LABELS) for seed in range(300)]
    assert np.mean(guessed) > 0.95
    assert np.mean(known) < 0.05


@pytest.mark.parametrize(
    ("values", "guesses"),
    [
        (lambda y: np.full_like(y, y.mean()), True),
        (lambda y: np.zeros_like(y), True),
        (lambda y: y.mean() + RANDOM.standard_normal(y.shape), True),
        (lambda y: 1000 * y, True),
        (lambda y: y + RANDOM.standard_normal(y.shape), False),
        (lambda y: np.full_like(y, np.nan), True),
    ],
    ids=["mean", "zero", "noise", "other units", "noisy", "nan"],
)
def test_values_that_are_no_closer_than_the_mean_are_at_chance(values, guesses):
    labels = 3 + 2 * np.random.default_rng(5).standard_normal((200, 2))
    predicted = values(labels)
    chance = measure_chance(predicted, labels, task="regression")
    assert chance.at_chance == guesses
    if np.isfinite(predicted).all():
        assert chance.value == pytest.approx(
            1 - np.square(predicted - labels).sum() / np.square(labels - labels.mean(0)).sum()
        )


@pytest.mark.parametrize("frequency", [0.0, 1.0, 0.3])
def test_guessed_labels_are_at_chance(frequency):
    truth = (np.random.default_rng(6).random((300, 3)) < [0.1, 0.5, 0.0]).astype(int)
    guessed = np.random.default_rng(7).random(truth.shape) < frequency
    assert at_chance(np.where(guessed, 1.0, -1.0), truth, "multilabel")
    assert not at_chance(np.where(truth == 1, 1.0, -1.0), truth, "multilabel")


def test_pixels_of_one_image_are_not_independent_examples():
    labels = np.broadcast_to(np.random.default_rng(8).integers(0, 2, (12, 1, 1)), (12, 20, 20))
    guessed = np.broadcast_to(np.random.default_rng(9).integers(0, 2, (12, 1, 1)), (12, 20, 20))
    assert (labels == guessed).mean() != 0.5
    assert at_chance(logits_of(guessed, 2), labels, "segmentation")
    assert at_chance(logits_of(np.zeros_like(labels), 2), labels, "segmentation")
    assert not at_chance(logits_of(labels, 2), labels, "segmentation")
    void = labels.copy()
    void[:, :5] = 255
    seen = np.where(void == 255, 1 - labels, labels)
    assert not at_chance(logits_of(seen, 2), void, "segmentation")


@pytest.mark.parametrize(
    ("logits", "labels", "task"),
    [
        (logits_of(np.zeros(5, int)), np.zeros(5, int), "classification"),
        (np.ones((5, 1)), np.ones((5, 1)), "regression"),
        (np.ones((5, 2)), np.ones((5, 2)), "multilabel"),
    ],
)
def test_chance_is_unknown_if_all_labels_are_equal(logits, labels, task):
    assert measure_chance(logits, labels, task=task) is None
    assert measure_quality(logits, labels, task=task).at_chance is None


def test_description_names_the_model_the_metric_and_the_split():
    quality = measure_quality(logits_of(np.zeros(300, int)), LABELS, task="classification")
    # Predicting one class has a recall of 1 for this class and of 0 for all others.
    recall = 1 / len(np.unique(LABELS))
    assert describe_chance(quality, "a.keras", "test") == (
        f"a.keras is at chance: balanced accuracy {recall:.4f} on 300 test examples, no better than guessing"
    )
    values = measure_quality(np.ones((9, 1)), np.arange(9.0)[:, None], task="regression")
    assert "a.keras is not better than always predicting the mean: r² -1.35" in describe_chance(
        values, "a.keras", "test"
    )


def test_teacher_above_chance_passes_with_its_accuracy():
    predicted = partly(LABELS, 0.9, 4)
    assert refuse_teacher_at_chance(logits_of(predicted), LABELS, name="t.keras") == np.mean(predicted == LABELS)


def test_teacher_at_chance_is_refused_with_its_metrics():
    shuffled = np.random.default_rng(0).permutation(LABELS)
    with pytest.raises(ModelError) as caught:
        refuse_teacher_at_chance(logits_of(LABELS), shuffled, name="t.keras")
    assert "the teacher (t.keras) is at chance level: accuracy 0." in caught.value.message
    assert "on 300 training examples" in caught.value.message
    assert "(guessing: 0.250)" in caught.value.message
    assert "order of the classes" in caught.value.hint and "--no-preflight" in caught.value.hint
    assert caught.value.exit_code == 4
