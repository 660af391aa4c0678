"""Mixup and cutmix: fractions, partners, images and labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import betainc
from scipy.stats import beta

from kdcli.augment import Crop, Cutmix, Cutout, Flip, Mixup
from kdcli.augment.mixing import sample_beta
from kdcli.data.examples import Examples
from kdcli.data.feed import Feed
from kdcli.data.views import Views

RANDOM = np.random.default_rng(0)
COUNT = 30
IMAGES = RANDOM.integers(0, 256, (COUNT, 8, 6, 1), dtype=np.uint8)
LABELS = np.arange(COUNT) % 4


def views(*augments, count=None):
    return Views(augments, seed=5, count=count, examples=COUNT)


def batch(which, *, weights=None, labels=LABELS, view=3, positions=None):
    split = Examples("train", {"x": IMAGES}, labels, weights, np.arange(COUNT))
    feed = Feed(split, which, classes=4)
    positions = tf.range(COUNT, dtype=tf.int64) if positions is None else tf.constant(positions, tf.int64)
    return feed.gather(positions, which.table(view), slot=0, total=COUNT)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 2.0, 8.0])
def test_samples_follow_the_beta_distribution(alpha):
    draws = tf.random.stateless_uniform([20000], seed=[1, 2])
    found = sample_beta(draws, alpha).numpy().astype(float)
    # Closer to 0 and 1, float32 cannot represent the difference.
    places = beta.ppf(np.linspace(0.002, 0.998, 200), alpha, alpha).clip(1e-6, 1 - 1e-6)
    expected = betainc(alpha, alpha, places)
    seen = np.searchsorted(np.sort(found), places, side="right") / len(found)
    assert np.abs((seen - expected) / np.sqrt(expected * (1 - expected) / len(found))).max() < 4
    assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_uniform_samples_equal_the_draws_and_quantiles_are_symmetric():
    draws = np.linspace(0, 1, 101, dtype=np.float32)
    np.testing.assert_allclose(sample_beta(tf.constant(draws), 1.0), draws, atol=1e-6)
    for alpha in (0.2, 3.0):
        quantiles = sample_beta(tf.constant(draws), alpha).numpy()
        np.testing.assert_allclose(quantiles + quantiles[::-1], 1.0, atol=1e-5)
        assert (np.diff(quantiles) >= 0).all()


def test_samples_of_beta_2_2_solve_its_polynomial():
    # The distribution function of Beta(2, 2) is 3x² - 2x³.
    draws = np.linspace(0.02, 0.98, 49, dtype=np.float32)
    x = sample_beta(tf.constant(draws), 2.0).numpy().astype(float)
    np.testing.assert_allclose(3 * x**2 - 2 * x**3, draws, atol=1e-4)


def test_partners_cover_the_whole_split_evenly():
    kind = Mixup()
    found = kind.partners(tf.random.stateless_uniform([6000, 2], seed=[0, 0]), COUNT).numpy()
    counts = np.bincount(found, minlength=COUNT)
    assert len(counts) == COUNT
    assert abs(counts - 200).max() < 6 * math.sqrt(200)
    last = np.float32(1) - np.float32(2**-24)
    assert int(kind.partners(tf.constant([[last, 0.0]]), 2**24 + 1)[0]) <= 2**24


def test_mixup_is_the_weighted_mean_of_two_images():
    first, second = IMAGES[:3], IMAGES[3:6]
    draws = np.array([[0.0, 0.25], [0.0, 0.5], [0.0, 1.0]], np.float32)
    found = Mixup(alpha=1.0).mix(tf.constant(first), tf.constant(second), tf.constant(draws)).numpy()
    fraction = draws[:, 1].reshape(3, 1, 1, 1).astype(float)
    assert np.abs(found - (fraction * first + (1 - fraction) * second)).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(found[2], first[2])


def test_cutmix_pastes_a_rectangle_and_returns_its_area():
    kind, first, second = Cutmix(alpha=1.0), np.zeros((3, 8, 6, 1), np.uint8), np.full((3, 8, 6, 1), 9, np.uint8)
    # A fraction of 1/4 replaces a side of √¾: 6 rows and 5 columns, in the centre or clipped at a corner.
    draws = tf.constant([[0.0, 0.25, 0.5, 0.5], [0.0, 0.25, 0.0, 0.0], [0.0, 0.9999999, 0.5, 0.5]], tf.float32)
    found = kind.mix(tf.constant(first), tf.constant(second), draws).numpy()[..., 0]
    expected = first[..., 0].copy()
    expected[0, 1:7, 1:6] = expected[1, :3, :3] = 9
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(kind.fractions(draws, size=(8, 6)), [1 - 30 / 48, 1 - 9 / 48, 1.0], atol=1e-6)


@pytest.mark.parametrize("kind", [Mixup(alpha=1.0), Cutmix()], ids=["mixup", "cutmix"])
def test_labels_are_mixed_in_the_same_fractions_as_images(kind):
    # Each image has one value, which encodes its label, so the mean pixel reveals the mixed label.
    flat = np.repeat((LABELS * 60).astype(np.float32), 48).reshape(COUNT, 8, 6, 1)
    which = views(kind)
    split = Examples("train", {"x": flat}, LABELS, None, np.arange(COUNT))
    read = Feed(split, which, classes=4).gather(tf.range(COUNT), which.table(0), slot=0, total=COUNT)
    assert read.labels.shape == (COUNT, 4)
    np.testing.assert_allclose(tf.reduce_sum(read.labels, 1), 1.0, atol=1e-6)
    meant = read.labels.numpy() @ (np.arange(4) * 60)
    np.testing.assert_allclose(read.inputs["x"].numpy().mean((1, 2, 3)), meant, atol=0.01)
    assert (np.count_nonzero(read.labels.numpy() > 0.01, axis=1) == 2).sum() > COUNT // 4


def test_partners_pass_the_earlier_steps_with_their_own_draws():
    which, before = (
        views(Crop(padding=1), Flip(), Mixup(alpha=1.0), Cutout(size=2)),
        views(Crop(padding=1), Flip()),
    )
    table = which.table(3)
    unmixed = before.apply({"x": IMAGES}, tf.range(COUNT), table[:, :3])["x"].numpy().astype(float)
    first, second = which.sources(tf.range(COUNT), table, size=(8, 6))
    fraction = first[1].numpy().reshape(-1, 1, 1, 1).astype(float)
    mixed = np.rint(fraction * unmixed + (1 - fraction) * unmixed[second[0].numpy()])
    hidden = Cutout(size=2)(tf.constant(np.ones_like(IMAGES)), table[:, 5:]).numpy() == 0
    found = batch(which).inputs["x"].numpy()
    assert (found[hidden] == 0).all()
    assert np.abs(found - np.where(hidden, 0, mixed)).max() <= 1


def test_fractions_of_two_mixings_sum_to_one():
    which = views(Mixup(alpha=1.0), Cutmix())
    found = which.sources(tf.range(COUNT), which.table(0), size=(8, 6))
    assert len(found) == 3
    np.testing.assert_allclose(sum(fraction.numpy() for _, fraction in found), 1.0, atol=1e-6)
    assert all(fraction.numpy().min() >= 0 for _, fraction in found)


def test_examples_of_weight_zero_do_not_contribute_to_mixed_labels():
    weights = (LABELS != 0).astype(np.float32)
    read = batch(views(Mixup(alpha=1.0)), weights=weights)
    labels, mixed = read.labels.numpy(), read.weights.numpy()
    assert (labels[:, 0] == 0).all()
    first, second = views(Mixup(alpha=1.0)).sources(tf.range(COUNT), views(Mixup(alpha=1.0)).table(3), size=(8, 6))
    expected = first[1].numpy() * weights + second[1].numpy() * weights[second[0].numpy()]
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    np.testing.assert_allclose(labels.sum(1), (expected > 0).astype(float), atol=1e-5)


def test_images_are_mixed_without_labels():
    read = batch(views(Mixup(alpha=1.0)), labels=None)
    assert (read.labels, read.weights) == (None, None)
    assert not np.array_equal(read.inputs["x"], IMAGES)


def test_labels_stay_classes_without_mixing():
    np.testing.assert_array_equal(batch(views(Flip())).labels, LABELS)
