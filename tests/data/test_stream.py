"""Streamed batches: equal to batches gathered in the step, in order, traced once."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

from kdcli.augment import Brightness, Cutmix, Flip, Mixup, Shift
from kdcli.data.feed import Feed
from kdcli.data.named_arrays import splits_from_arrays
from kdcli.data.stream import INPUTS_KEY, POSITIONS_KEY, Stream
from kdcli.data.views import Views

X, Y = blobs(60)
ORDER = np.random.default_rng(0).permutation(48).reshape(6, 8)
AUGMENTS = {
    "none": (),
    "moved": (Shift(pixels=2), Flip(), Brightness(amount=0.3)),
    "mixed": (Shift(pixels=1), Mixup(alpha=1.0), Flip(), Cutmix()),
}


def split(augments=()):
    """48 examples in another order than their arrays, and their views."""
    examples = splits_from_arrays({"x": X, "y": Y}, name="d").train.subset(np.arange(59, 11, -1))
    return examples, Views(augments, seed=5, count=None, examples=len(examples))


def hash_inputs(inputs) -> str:
    return hashlib.sha256(inputs["x"].numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("name", AUGMENTS)
def test_streamed_batches_equal_resident_ones_bit_for_bit(name):
    examples, views = split(AUGMENTS[name])
    feed, stream = Feed(examples, views), Stream(examples, views, batch_size=8)
    seen = []
    for view in (0, 3):
        table = views.table(view)
        gather = tf.function(lambda at, table: feed.gather(at, table, slot=0, total=8).inputs, autograph=False)
        batches = list(stream.batches(ORDER, table=table))
        assert [batch[POSITIONS_KEY].numpy().tolist() for batch in batches] == ORDER.tolist()
        seen.append([hash_inputs(batch[INPUTS_KEY]) for batch in batches])
        assert seen[-1] == [hash_inputs(gather(tf.constant(at), table)) for at in ORDER]
    assert (seen[0] == seen[1]) == (name == "none")


def test_rest_of_an_order_gives_the_same_batches():
    examples, views = split(AUGMENTS["mixed"])
    stream, table = Stream(examples, views, batch_size=8), views.table(1)
    whole, rest = (
        [hash_inputs(b[INPUTS_KEY]) for b in stream.batches(o, table=table)] for o in (ORDER, ORDER[4:])
    )
    assert rest == whole[4:]


def test_orders_and_views_share_one_trace(monkeypatch):
    traced, apply = [], Views.apply

    def count_calls(*args, **kwargs):
        traced.append(1)
        return apply(*args, **kwargs)

    monkeypatch.setattr(Views, "apply", count_calls)
    examples, views = split(AUGMENTS["moved"])
    stream = Stream(examples, views, batch_size=8)
    for view, steps in enumerate((6, 1, 3, 0)):
        assert len(list(stream.batches(ORDER[:steps], table=views.table(view)))) == steps
    assert len(traced) == 1


def test_batch_slice_contains_its_inputs_and_all_positions():
    examples, views = split(AUGMENTS["mixed"])
    table = views.table(0)
    whole = list(Stream(examples, views, batch_size=8).batches(ORDER, table=table))
    part = Stream(examples, views, batch_size=8, batch_slice=slice(2, 6))
    assert part.element_spec[INPUTS_KEY]["x"].shape == (4, 8, 8, 1)
    for ours, all_of_it in zip(part.batches(ORDER, table=table), whole, strict=True):
        np.testing.assert_array_equal(ours[POSITIONS_KEY], all_of_it[POSITIONS_KEY])
        np.testing.assert_array_equal(ours[INPUTS_KEY]["x"], all_of_it[INPUTS_KEY]["x"][2:6])


def test_batch_slice_reads_only_its_inputs(monkeypatch):
    examples, views = split()
    read = []
    take = type(examples).take
    monkeypatch.setattr(type(examples), "take", lambda self, at: (read.extend(at.tolist()), take(self, at))[1])
    list(Stream(examples, views, batch_size=8, batch_slice=slice(4, 8)).batches(ORDER, table=views.table(0)))
    assert sorted(read) == sorted(ORDER[:, 4:].ravel().tolist())


def test_batches_may_differ_in_size():
    examples, views = split(AUGMENTS["moved"])
    stream, table = Stream(examples, views, batch_size=None), views.table(0)
    (large,) = stream.batches(np.arange(40)[None], table=table)
    (small,) = stream.batches(np.arange(35, 40)[None], table=table)
    np.testing.assert_array_equal(small[INPUTS_KEY]["x"], large[INPUTS_KEY]["x"][35:])


def test_several_inputs_keep_their_types():
    arrays = {"x.left": np.linspace(0, 1, 60), "x.right": X, "y": Y}
    examples = splits_from_arrays(arrays, name="d").train
    views = Views((), seed=0, count=1, examples=len(examples))
    stream = Stream(examples, views, batch_size=8)
    (batch,) = stream.batches(ORDER[:1], table=views.table(0))
    np.testing.assert_array_equal(batch[INPUTS_KEY]["left"], arrays["x.left"][ORDER[0]])
    np.testing.assert_array_equal(batch[INPUTS_KEY]["right"], X[ORDER[0]])
    assert batch[INPUTS_KEY]["left"].dtype == tf.float64
