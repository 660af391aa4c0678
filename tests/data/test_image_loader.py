"""Image encodings, compared with Keras: with Pillow, and with TensorFlow where these differ."""

from __future__ import annotations

import io
import struct
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kdcli.data.image_folders import read_image_folders
from kdcli.errors import DataError

RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH = 24, 21


def smooth(channels):
    """Colours without sharp edges, on which JPEG decoders would differ."""
    corners = RANDOM.integers(0, 256, (3, 3, channels)).astype(np.float32)
    return np.rint(tf.image.resize(corners, (HEIGHT, WIDTH))).astype(np.uint8)


COLOUR, ALPHA = Image.fromarray(smooth(3)), Image.fromarray(smooth(4))
GREY = Image.fromarray(smooth(1)[..., 0])
FEW = COLOUR.quantize(16)
DEEP = smooth(1)[..., 0].astype(np.uint16) * 257 ^ 77


def encoded(image, suffix, **how):
    file = io.BytesIO()
    image.save(file, suffix, **how)
    return file.getvalue()


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def bmp(bits, *, from_top=False, compression=0, header=40):
    """A BMP with a palette, in variants that Pillow does not write."""
    levels = RANDOM.integers(0, 1 << bits, (HEIGHT, WIDTH), dtype=np.uint8)
    rows = np.packbits(np.unpackbits(levels[..., None], axis=-1)[..., 8 - bits :].reshape(HEIGHT, -1), axis=1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    palette = RANDOM.integers(0, 256, (1 << bits, 4), dtype=np.uint8).tobytes()
    size = (header, WIDTH, -HEIGHT if from_top else HEIGHT, 1, bits, compression, 0, 0, 0, 0, 0)
    start = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + rows.size, 0, 0, start) + struct.pack("<IiiHHIIiiII", *size)
    return head + palette + (rows if from_top else rows[::-1]).tobytes()


def interlaced():
    """A PNG in the seven passes of Adam7."""
    pixels = np.asarray(COLOUR)
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    rows = (row for y, dy, x, dx in passes for row in pixels[y::dy, x::dx])
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 1)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    )
    body = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


# Content, and the largest difference between two JPEG decoders.
ENCODINGS = {
    "grey.png": (encoded(GREY, "png"), 0),
    "colour.png": (encoded(COLOUR, "png"), 0),
    "transparent.png": (encoded(ALPHA, "png"), 0),
    "grey and transparent.png": (encoded(ALPHA.convert("LA"), "png"), 0),
    "palette.png": (encoded(FEW, "png"), 0),
    "palette of 4 bits.png": (encoded(FEW, "png", bits=4), 0),
    "palette, one transparent.png": (encoded(FEW, "png", transparency=3), 0),
    "1 bit.png": (encoded(GREY.convert("1"), "png"), 0),
    "interlaced.png": (interlaced(), 0),
    "16 bits, colour.png": (tf.io.encode_png(np.asarray(COLOUR).astype(np.uint16) * 257).numpy(), 0),
    "colour.bmp": (encoded(COLOUR, "bmp"), 0),
    "grey.bmp": (encoded(GREY, "bmp"), 0),
    "32 bits.bmp": (encoded(ALPHA, "bmp"), 0),
    "palette.bmp": (encoded(COLOUR.quantize(200), "bmp"), 0),
    "1 bit.bmp": (encoded(GREY.convert("1"), "bmp"), 0),
    "1 bit, colours.bmp": (bmp(1), 0),
    "4 bits.bmp": (bmp(4), 0),
    "4 bits from the top.bmp": (bmp(4, from_top=True), 0),
    "8 bits from the top.bmp": (bmp(8, from_top=True), 0),
    "grey.jpg": (encoded(GREY, "jpeg"), 1),
    "colour.jpg": (encoded(COLOUR, "jpeg"), 3),
    "progressive.jpg": (encoded(COLOUR, "jpeg", progressive=True), 3),
    "cmyk.jpg": (encoded(COLOUR.convert("CMYK"), "jpeg"), 3),
    "rotated.jpg": (encoded(COLOUR, "jpeg", exif=exif(6)), 3),
    "palette.gif": (encoded(FEW, "gif"), 0),
    "animation.gif": (encoded(FEW, "gif", save_all=True, append_images=[GREY.convert("P")]), 0),
    "lossy.webp": (encoded(COLOUR, "webp"), 3),
    "lossless.webp": (encoded(COLOUR, "webp", lossless=True), 0),
    "transparent.webp": (encoded(ALPHA, "webp", lossless=True, exact=True), 0),
    "animation.webp": (
        encoded(COLOUR, "webp", lossless=True, save_all=True, append_images=[ALPHA.convert("RGB")]),
        0,
    ),
}


def save(folder, contents):
    """Save each file as a class."""
    for number, (name, content) in enumerate(contents.items()):
        path = folder / f"{number:02}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return folder


def read(folder, **options):
    splits = read_image_folders(folder, **{"size": "auto", "channels": "auto", **options})
    return splits.train.inputs["x"], splits.notes


@pytest.mark.parametrize("channels", [1, 3])
def test_every_encoding_is_read_as_in_keras(tmp_path, channels):
    save(tmp_path, {name: content for name, (content, _) in ENCODINGS.items()})
    found, _ = read(tmp_path, channels=channels)
    mode = {1: "grayscale", 3: "rgb"}[channels]
    for pixels, path in zip(found, sorted(tmp_path.rglob("*.*")), strict=True):
        theirs = keras.utils.img_to_array(keras.utils.load_img(path, color_mode=mode))
        # Colours are converted to grey with another rounding.
        apart = max(ENCODINGS[path.name][1], channels == 1)
        assert np.abs(pixels - theirs).max() <= apart, path.name


@pytest.mark.parametrize("name", ["1 bit.bmp", "grey.bmp", "grey and transparent.png", "1 bit.png", "grey.jpg"])
def test_grey_images_have_one_channel_in_every_encoding(tmp_path, name):
    found, notes = read(save(tmp_path, {name: ENCODINGS[name][0]}))
    assert (found.shape, notes) == ((1, HEIGHT, WIDTH, 1), ())


def test_16_bit_images_are_read_as_in_keras_folders(tmp_path):
    save(tmp_path, {"a.png": encoded(Image.fromarray(DEEP), "png"), "b.png": encoded(GREY, "png")})
    found, notes = read(tmp_path)
    theirs = keras.utils.image_dataset_from_directory(
        tmp_path, color_mode="grayscale", image_size=(HEIGHT, WIDTH), batch_size=None, shuffle=False, verbose=False
    )
    np.testing.assert_array_equal(found, [image for image, _ in theirs.as_numpy_iterator()])
    assert notes == (f"{tmp_path}: 16 bits per channel in 1 of 2 images; the upper 8 of 16 bits are used",)


@pytest.mark.parametrize("resident_bytes", [0, 10**6])
def test_12_of_16_bits_get_a_note_and_are_used_on_request(tmp_path, resident_bytes):
    values = DEEP >> 4
    save(tmp_path, {"a.png": encoded(Image.fromarray(values), "png"), "b.png": encoded(GREY, "png")})
    (note,) = read(tmp_path)[1]
    assert f"the largest value in 1 of them is {values.max()}, so they become dark" in note
    assert "--set data.source.bits=12 uses the upper 8 of 12 bits" in note
    found, notes = read(tmp_path, bits=12, resident_bytes=resident_bytes)
    exact = [np.asarray(Image.open(tmp_path / "00" / "a.png")) >> 4, np.asarray(GREY)]
    np.testing.assert_array_equal(found[np.arange(2)][..., 0], exact)
    assert notes == (f"{tmp_path}: 16 bits per channel in 1 of 2 images; the upper 8 of 12 bits are used",)
    found, (note,) = read(tmp_path, bits=9)
    assert "values of more than 9 bits become 255" in note
    np.testing.assert_array_equal(found[0, ..., 0], np.minimum(values >> 1, 255))


def test_exif_rotations_are_counted_in_a_note(tmp_path):
    save(tmp_path, {f"{number}.jpg": encoded(COLOUR, "jpeg", exif=exif(number)) for number in (1, 3, 6, 8)})
    (note,) = read(tmp_path)[1]
    assert note.startswith(f"{tmp_path}: 3 of 4 images have an EXIF rotation, which is not applied")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(GREY.convert("1"), "tiff"), "a TIFF image"),
        (encoded(COLOUR, "avif"), "an AVIF image"),
        (encoded(COLOUR, "jpeg2000"), "a JPEG 2000 image"),
        (bmp(8, compression=1), "a BMP image with run-length compression"),
        (bmp(8, header=12), "an OS/2 BMP image"),
        (bmp(4)[:-30], "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"RIFF\0\0\0\0WEBPVP8X", "damaged or truncated"),
        (b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\x02\0\0\0", "damaged or truncated"),
    ],
)
def test_unsupported_images_are_named(tmp_path, content, message):
    with pytest.raises(DataError, match=f"1 of 2 images cannot be read: .*bad.png \\({message}"):
        read(save(tmp_path, {"good.png": encoded(GREY, "png"), "bad.png": content}))


def test_files_of_unsupported_formats_are_counted_in_a_note(tmp_path):
    save(tmp_path, {"good.png": encoded(GREY, "png"), "other.png": encoded(GREY, "png")})
    (tmp_path / "00" / "more.TIF").write_bytes(encoded(GREY, "tiff"))
    (note,) = read(tmp_path)[1]
    assert note.startswith(f"{tmp_path}: ignored images of unsupported formats: 1 .tif; kd reads .jpg,")
    (tmp_path / "00" / "good.png").unlink()
    with pytest.raises(DataError, match="no images in 00") as caught:
        read(tmp_path)
    assert caught.value.hint.endswith("convert the others (1 .tif) to .png")
