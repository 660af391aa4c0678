"""A `tf.data.Dataset` as data: batches or examples, read once; what its shapes leave open is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kdcli.data.tf_dataset import is_tf_dataset, read_tf_dataset
from kdcli.errors import DataError

X = np.arange(10 * 4 * 4 * 3, dtype=np.uint8).reshape(10, 4, 4, 3)
Y = np.arange(10) % 3


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_batches_and_examples_give_the_same_arrays(batch):
    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    arrays = read_tf_dataset(dataset if batch is None else dataset.batch(batch))
    assert list(arrays) == ["x", "y"]
    np.testing.assert_array_equal(arrays["x"], X)
    np.testing.assert_array_equal(arrays["y"], Y)


def test_named_inputs_and_no_labels():
    dataset = tf.data.Dataset.from_tensor_slices({"left": X, "right": X[..., :1]}).batch(3)
    arrays = read_tf_dataset(dataset)
    assert {name: array.shape for name, array in arrays.items()} == {"x.left": X.shape, "x.right": (10, 4, 4, 1)}


def test_examples_with_vectors_as_labels():
    arrays = read_tf_dataset(tf.data.Dataset.from_tensor_slices((X, np.eye(3)[Y])))
    assert arrays["y"].shape == (10, 3)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        # Label maps of single images: their first axis is the height, as in the image.
        (tf.data.Dataset.from_tensor_slices((X, X[..., 0])), "do not tell whether it has batches"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).batch(5, drop_remainder=True), "do not tell"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).repeat(), "never ends"),
        (tf.data.Dataset.from_tensor_slices((X, Y)).take(0), "has no elements"),
        (tf.data.Dataset.from_tensor_slices((X, Y, Y)), "must be x or (x, y), got 3 components"),
    ],
)
def test_what_cannot_be_read_is_refused(dataset, message):
    with pytest.raises(DataError) as caught:
        read_tf_dataset(dataset)
    assert message in caught.value.message


def test_arrays_are_no_dataset():
    assert is_tf_dataset(tf.data.Dataset.range(3))
    assert not is_tf_dataset((X, Y))
    assert not is_tf_dataset({"x": X})
