"""The reason in a library's error, in one line."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdcli.errors import summarize_error


@tf.function(input_signature=[tf.TensorSpec((None, None)), tf.TensorSpec((None, None))])
def product(first, second):
    return tf.matmul(first, second)


@tf.function
def traced(first, second):
    return tf.matmul(first, second)


class Square(keras.layers.Layer):
    def call(self, x):
        return keras.ops.reshape(x, (7, 7))


def convolved():
    inputs = keras.Input((None, None, 1))
    keras.Model(inputs, keras.layers.Conv2D(3, 5)(inputs))(np.zeros((2, 3, 3, 1), np.float32))


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (
            lambda: product(tf.zeros((2, 3)), tf.zeros((2, 3))),
            "Matrix size-incompatible: In[0]: [2,3], In[1]: [2,3]",
        ),
        (lambda: traced(tf.zeros((2, 3)), tf.zeros((2, 3))), "Dimensions must be equal, but are 3 and 2"),
        (lambda: tf.matmul(tf.zeros((2, 3)), tf.zeros((2, 3))), "Matrix size-incompatible: In[0]: [2,3], In[1]"),
        (lambda: Square()(np.zeros((2, 3), np.float32)), "6 values, but the requested shape has 49"),
        (convolved, "Computed output size would be negative: -1"),
    ],
)
def test_the_reason_is_extracted_without_calls_and_nodes(work, said):
    with pytest.raises((ValueError, tf.errors.OpError)) as caught:
        work()
    line = summarize_error(caught.value)
    assert said in line and said in str(caught.value)
    for noise in ("\n", "{{", "[Op:", "\x1b", 'File "', "Exception encountered", "Graph execution error"):
        assert noise not in line


def test_an_error_without_a_message_is_described_by_its_class():
    assert summarize_error(ValueError()) == "ValueError"
    assert summarize_error(ValueError("\n\n")) == "ValueError"
    assert summarize_error(ValueError("one\ntwo")) == "one"
    assert summarize_error(ValueError("Graph execution error:\n\n")) == "Graph execution error:"
