"""Image size and channels from the first bytes, for every supported format."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest
import tensorflow as tf

from kdcli.data.image_formats import ImageHeader, read_image_header

COLOUR = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
WEBP = {
    "lossy": "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA",
    "lossless": "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==",
    "alpha": "UklGRkoAAABXRUJQVlA4WAoAAAAQAAAAAAAAAAAAQUxQSAwAAAARBxAR/Q9ERP8DAABWUDggGAAAABQBAJ0B"
    "KgEAAQAAAP4AAA3AAP7mtQAAAA==",
}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_header_is_read(channels):
    image = np.repeat(COLOUR[..., :1], channels, axis=-1)
    assert read_image_header(tf.io.encode_png(image).numpy()) == ImageHeader(7, 5, 1 if channels < 3 else 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_header_is_read(channels, progressive):
    content = tf.io.encode_jpeg(COLOUR[..., :channels], progressive=progressive).numpy()
    assert read_image_header(content) == ImageHeader(7, 5, channels)
    # Fill bytes and a comment before the frame.
    filled = content[:2] + b"\xff\xff\xfe\x00\x05abc" + content[2:]
    assert read_image_header(filled) == ImageHeader(7, 5, channels)


def test_gif_and_bmp_headers_are_read():
    assert read_image_header(b"GIF89a" + struct.pack("<HH", 5, 7) + b"\0\0\0") == ImageHeader(7, 5, 3)
    for height, bits, channels in ((7, 24, 3), (-7, 32, 3), (7, 8, 1)):
        palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
        content = b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 5, height, 1, bits) + bytes(24) + palette
        assert read_image_header(content) == ImageHeader(7, 5, channels)


@pytest.mark.parametrize("kind", WEBP)
def test_webp_header_is_read(kind):
    content = base64.b64decode(WEBP[kind])
    assert read_image_header(content) == ImageHeader(1, 1, 3)
    assert tf.io.decode_webp(content).shape[:2] == (1, 1)


def test_size_of_large_webp_is_read():
    assert read_image_header(b"RIFF....WEBPVP8 " + bytes(10) + struct.pack("<HH", 500, 300)) == ImageHeader(
        300, 500, 3
    )
    bits = (499) | (299 << 14)
    assert read_image_header(b"RIFF....WEBPVP8L" + bytes(4) + b"\x2f" + struct.pack("<I", bits)) == ImageHeader(
        300, 500, 3
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe0\x00",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"GIF89a",
        b"BM",
        b"GIF89a\0\0\0\0\0\0\0",
        tf.io.encode_png(COLOUR).numpy()[:20],
    ],
)
def test_content_that_is_not_an_image_has_no_header(content):
    assert read_image_header(content) is None
