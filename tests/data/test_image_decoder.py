"""Decoding in a graph: the pixels that the plain operations give, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kdcli.data.image_decoder import ImageSpec, compile_decoder

RANDOM = np.random.default_rng(0)


def pixels(*shape):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def decoded(contents, form):
    return compile_decoder(form)(tf.constant(contents)).numpy()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("wanted", [1, 3])
def test_channels_of_a_picture_without_loss(channels, wanted):
    given = pixels(6, 5, channels)
    (found,) = decoded([tf.io.encode_png(given).numpy()], ImageSpec(6, 5, wanted))
    colour = given[..., :3] if channels > 2 else np.repeat(given[..., :1], 3, axis=-1)
    if wanted == 3:
        np.testing.assert_array_equal(found, colour)
    elif channels < 3:
        np.testing.assert_array_equal(found, given[..., :1])
    else:
        exact = colour.astype(np.float64) @ [0.299, 0.587, 0.114]
        assert np.abs(found[..., 0] - exact).max() <= 0.5001


@pytest.mark.parametrize("size", [(12, 9), (40, 31)], ids=["smaller", "larger"])
def test_sizes_are_stretched_as_tensorflow_does_and_rounded(size):
    contents = [tf.io.encode_jpeg(pixels(20, 20, 3)).numpy() for _ in range(3)]
    found = decoded(contents, ImageSpec(*size, 3))
    for picture, content in zip(found, contents, strict=True):
        resized = tf.image.resize(tf.io.decode_jpeg(content), size, antialias=True).numpy()
        np.testing.assert_array_equal(picture, np.clip(np.rint(resized), 0, 255).astype(np.uint8))


def test_pictures_of_different_sizes_in_one_batch():
    contents = [tf.io.encode_png(pixels(*size, 3)).numpy() for size in ((4, 4), (9, 2), (1, 1))]
    found = decoded(contents, ImageSpec(4, 4, 3))
    for picture, content in zip(found, contents, strict=True):
        np.testing.assert_array_equal(picture, decoded([content], ImageSpec(4, 4, 3))[0])


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\0\0\0\0WEBPVP8 broken", b"\xff\xd8\xff\xe0", b"hello"])
def test_what_is_no_picture_is_an_error_of_tensorflow(content):
    with pytest.raises(tf.errors.OpError):
        decoded([content], ImageSpec(4, 4, 3))


def test_a_form_is_traced_once():
    form = ImageSpec(3, 7, 1)
    assert compile_decoder(form) is compile_decoder(ImageSpec(3, 7, 1))
    for count in (1, 5, 2):
        decoded([tf.io.encode_png(pixels(3, 7, 1)).numpy()] * count, form)
    assert compile_decoder(form).experimental_get_tracing_count() == 1
