"""What every kind of augmentation keeps: type, shape, range, and that a picture follows from its draws alone."""

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
PICTURES = RANDOM.integers(0, 256, (COUNT, 12, 10, 3), dtype=np.uint8)


def known(kind):
    return pytest.param(kind(), id=kind.model_fields["kind"].default)


EVERY = pytest.mark.parametrize("augment", [known(kind) for kind in KINDS])


def seen(augments, positions, *, pictures=PICTURES, view=1):
    """Some pictures in a view."""
    views = Views(augments, seed=0, count=None, examples=COUNT)
    at = tf.constant(positions, tf.int64)
    found = views.apply(
        {"x": pictures[positions]}, at, views.table(view), take=lambda at: {"x": tf.gather(pictures, at)}
    )
    return found["x"].numpy()


def test_every_kind_of_the_contract_is_there():
    names = {kind.model_fields["kind"].default for kind in KINDS}
    moving = {"flip", "crop", "shift", "rotate", "cutout", "mixup", "cutmix"}
    assert names == moving | {"brightness", "contrast"}
    assert {kind.model_fields["kind"].default for kind in KINDS if kind.moves} == moving


@EVERY
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float16", "float32", "float64", "bool"])
def test_type_and_shape_stay_and_something_changes(augment, dtype):
    pictures = PICTURES.astype(dtype) if dtype != "bool" else PICTURES > 127
    found = seen([augment], np.arange(COUNT), pictures=pictures)
    assert (found.dtype, found.shape) == (pictures.dtype, pictures.shape)
    # A factor of contrast near 1 leaves pictures of two values as they are.
    assert dtype == "bool" or not np.array_equal(found, pictures)


@EVERY
def test_an_example_alone_looks_as_it_does_in_a_batch(augment):
    whole = seen([augment], np.arange(COUNT))
    for positions in ([0], [COUNT - 1], [7, 3, 7]):
        np.testing.assert_array_equal(seen([augment], np.array(positions)), whole[positions])


@EVERY
def test_the_same_draws_give_the_same_picture_and_other_views_another(augment):
    everything = np.arange(COUNT)
    np.testing.assert_array_equal(seen([augment], everything), seen([augment], everything))
    assert not np.array_equal(seen([augment], everything), seen([augment], everything, view=2))


@EVERY
def test_a_compiled_view_equals_the_one_made_step_by_step(augment):
    views = Views([augment], seed=0, count=None, examples=COUNT)
    table, positions = views.table(0), tf.constant([5, 1, 5, 20], tf.int64)

    def apply(at):
        return views.apply({"x": tf.gather(PICTURES, at)}, at, table, take=lambda p: {"x": tf.gather(PICTURES, p)})

    compiled = tf.function(apply, autograph=False)(positions)["x"]
    # A rounding of the last bit may move a pixel by one.
    assert np.abs(compiled.numpy().astype(int) - apply(positions)["x"].numpy()).max() <= 1


def test_all_kinds_together_are_a_function_of_the_example():
    every = [kind() for kind in KINDS]
    whole = seen(every, np.arange(COUNT))
    np.testing.assert_array_equal(seen(every, np.array([9, 2])), whole[[9, 2]])


@EVERY
def test_floats_between_zero_and_one_need_no_white_of_255(augment):
    pictures = (PICTURES / 255).astype(np.float32)
    found = seen([augment], np.arange(COUNT), pictures=pictures)
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_at_least_one_and_mixing_says_so(kind):
    assert kind.draws >= 1
    assert issubclass(kind, Mixing) == (kind.model_fields["kind"].default in ("mixup", "cutmix"))
