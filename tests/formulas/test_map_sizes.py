"""Maps resized to the nearest point; averaging is compared in the tests of the losses."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from kdcli.formulas.map_sizes import resize_to_nearest


def test_maps_are_resized_to_the_nearest_point():
    row = tf.constant(np.arange(5.0).reshape(1, 1, 5, 1), tf.float32)
    assert tf.squeeze(resize_to_nearest(row, (1, 3))).numpy().tolist() == [0, 1, 3]
    assert tf.squeeze(resize_to_nearest(row, (1, 8))).numpy().tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert resize_to_nearest(row, (2, 5))[0, :, 4, 0].numpy().tolist() == [4, 4]
