"""Losses of single examples, compared with Keras, and the loss of the best constant prediction."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.evaluation.example_loss import compute_example_losses, compute_guessing_losses

RANDOM = np.random.default_rng(0)
MAPS = RANDOM.integers(0, 3, (5, 4, 4))


@pytest.mark.parametrize(
    ("task", "output_kind", "labels", "logits", "loss"),
    [
        (
            "classification",
            "logits",
            RANDOM.integers(0, 3, 8),
            RANDOM.normal(size=(8, 3)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None),
        ),
        (
            "classification",
            "logits",
            RANDOM.dirichlet(np.ones(3), 8),
            RANDOM.normal(size=(8, 3)),
            keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None),
        ),
        (
            "segmentation",
            "logits",
            MAPS,
            RANDOM.normal(size=(5, 4, 4, 3)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None),
        ),
        (
            "multilabel",
            "sigmoid",
            RANDOM.integers(0, 2, (8, 3)).astype(float),
            RANDOM.normal(size=(8, 3)),
            keras.losses.BinaryCrossentropy(from_logits=True, reduction=None),
        ),
        (
            "regression",
            "values",
            RANDOM.normal(size=(8, 2)),
            RANDOM.normal(size=(8, 2)),
            keras.losses.MeanSquaredError(reduction=None),
        ),
    ],
)
def test_losses_equal_those_of_keras(task, output_kind, labels, logits, loss):
    expected = np.asarray(loss(labels, logits)).reshape(len(labels), -1).mean(-1)
    np.testing.assert_allclose(
        compute_example_losses(logits, labels, task=task, output_kind=output_kind), expected, rtol=1e-5
    )


@pytest.mark.parametrize("labels", [RANDOM.integers(0, 3, 40), MAPS])
def test_guessing_is_the_loss_of_predicting_the_label_frequencies(labels):
    frequencies = np.bincount(labels.ravel(), minlength=3) / labels.size
    logits = np.broadcast_to(np.log(frequencies), (*labels.shape, 3))
    expected = compute_example_losses(logits, labels, task="segmentation", output_kind="logits")
    found = compute_guessing_losses(labels, logits.shape, task="segmentation", output_kind="logits")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_void_pixels_have_no_loss():
    void = np.where(RANDOM.random(MAPS.shape) < 0.5, -1, MAPS)
    logits = RANDOM.normal(size=(5, 4, 4, 3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None, ignore_class=-1)
    expected = np.asarray(loss(void, logits)).reshape(5, -1).mean(-1)
    np.testing.assert_allclose(
        compute_example_losses(logits, void, task="segmentation", output_kind="logits"), expected, rtol=1e-5
    )


def test_losses_are_none_for_labels_of_another_shape():
    assert (
        compute_example_losses(np.zeros((4, 3)), np.zeros((4, 2)), task="regression", output_kind="values") is None
    )
