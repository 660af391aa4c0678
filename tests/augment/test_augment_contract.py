"""Properties of every augmentation: type, shape and range stay, and an image depends on its draws only."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from kdcli.augment import AnyAugment, Mixing
from kdcli.data.views import Views

KINDS = get_args(get_args(AnyAugment)[0])
RANDOM = np.random.default_rng(0)
COUNT = 24
IMAGES = RANDOM.integers(0, 256, (COUNT, 12, 10, 3), dtype=np.uint8)


def parameter(kind):
    return pytest.param(kind(), id=kind.model_fields["kind"].default)


EVERY = pytest.mark.parametrize("augment", [parameter(kind) for kind in KINDS])


def apply_view(augments, positions, *, images=IMAGES, view=1):
    """The view of some images."""
    views = Views(augments, seed=0, count=None, examples=COUNT)
    at = tf.constant(positions, tf.int64)
    found = views.apply(
        {"x": images[positions]}, at, views.table(view), take=lambda at: {"x": tf.gather(images, at)}
    )
    return found["x"].numpy()


def test_all_kinds_exist_and_declare_whether_they_move_pixels():
    names = {kind.model_fields["kind"].default for kind in KINDS}
    moving = {"flip", "crop", "shift", "rotate", "cutout", "mixup", "cutmix"}
    assert names == moving | {"brightness", "contrast"}
    assert {kind.model_fields["kind"].default for kind in KINDS if kind.moves} == moving


@EVERY
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float16", "float32", "float64", "bool"])
def test_augmentation_keeps_type_and_shape_and_changes_values(augment, dtype):
    images = IMAGES.astype(dtype) if dtype != "bool" else IMAGES > 127
    found = apply_view([augment], np.arange(COUNT), images=images)
    assert (found.dtype, found.shape) == (images.dtype, images.shape)
    # A contrast factor near 1 does not change images of two values.
    assert dtype == "bool" or not np.array_equal(found, images)


@EVERY
def test_example_does_not_depend_on_its_batch(augment):
    whole = apply_view([augment], np.arange(COUNT))
    for positions in ([0], [COUNT - 1], [7, 3, 7]):
        np.testing.assert_array_equal(apply_view([augment], np.array(positions)), whole[positions])


@EVERY
def test_view_is_reproducible_and_differs_from_other_views(augment):
    everything = np.arange(COUNT)
    np.testing.assert_array_equal(apply_view([augment], everything), apply_view([augment], everything))
    assert not np.array_equal(apply_view([augment], everything), apply_view([augment], everything, view=2))


@EVERY
def test_compiled_view_equals_eager_view(augment):
    views = Views([augment], seed=0, count=None, examples=COUNT)
    table, positions = views.table(0), tf.constant([5, 1, 5, 20], tf.int64)

    def apply(at):
        return views.apply({"x": tf.gather(IMAGES, at)}, at, table, take=lambda p: {"x": tf.gather(IMAGES, p)})

    compiled = tf.function(apply, autograph=False)(positions)["x"]
    # Rounding may change a pixel by one.
    assert np.abs(compiled.numpy().astype(int) - apply(positions)["x"].numpy()).max() <= 1


def test_all_kinds_together_do_not_depend_on_the_batch():
    every = [kind() for kind in KINDS]
    whole = apply_view(every, np.arange(COUNT))
    np.testing.assert_array_equal(apply_view(every, np.array([9, 2])), whole[[9, 2]])


@EVERY
def test_floats_stay_near_the_range_0_to_1(augment):
    images = (IMAGES / 255).astype(np.float32)
    found = apply_view([augment], np.arange(COUNT), images=images)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_draws_and_only_mixup_and_cutmix_mix(kind):
    assert kind.draws >= 1
    assert issubclass(kind, Mixing) == (kind.model_fields["kind"].default in ("mixup", "cutmix"))
