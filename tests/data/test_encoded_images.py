"""Encoded images: decoding, streaming, storage and damage."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest
import tensorflow as tf

from kdcli.augment import Mixup, Shift
from kdcli.data import store
from kdcli.data.dataset import fingerprint_dataset, open_dataset
from kdcli.data.encoded_images import EncodedImages, ImageSpec, compile_decoder
from kdcli.data.examples import Examples
from kdcli.data.feed import Feed, read_host_inputs
from kdcli.data.image_folders import read_image_folders
from kdcli.data.stream import INPUTS_KEY, Stream
from kdcli.data.tfrecords import read_tfrecords
from kdcli.data.views import Views
from kdcli.errors import DataError
from kdcli.recipe.sections import DataSection

RANDOM = np.random.default_rng(0)
WEBP = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
GIF = base64.b64decode("R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs=")
BMP = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 58, 0, 0, 54, 40, 1, 1, 1, 24, 0, 4, 0, 0, 0, 0) + b"\3\2\1\0"


def png(*shape):
    return tf.io.encode_png(RANDOM.integers(0, 256, shape, dtype=np.uint8)).numpy()


def jpeg(*shape):
    return tf.io.encode_jpeg(RANDOM.integers(0, 256, shape, dtype=np.uint8), quality=90).numpy()


def all_formats():
    """An image of each format, by file name."""
    sizes = {"large": (9, 14), "small": (5, 4)}
    kinds = {f"{name}-colour.jpg": jpeg(*size, 3) for name, size in sizes.items()}
    kinds |= {f"{name}-grey.jpg": jpeg(*size, 1) for name, size in sizes.items()}
    kinds |= {
        f"{name}-{channels}.png": png(*size, channels) for name, size in sizes.items() for channels in (1, 2, 3, 4)
    }
    return {
        **kinds,
        "a.gif": GIF,
        "b.bmp": BMP,
        "c.webp": WEBP,
        "deep.png": tf.io.encode_png(np.full((5, 4, 3), 999, np.uint16)).numpy(),
    }


def save_folder(folder, contents, *, splits=("train", "test")):
    for split in splits:
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            for name, content in contents.items():
                (folder / split / label / name).write_bytes(content)
    return folder


def save_records(path, contents):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, content in enumerate(contents):
            image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 2]))
            features = tf.train.Features(feature={"image/encoded": image, "image/class/label": label})
            writer.write(tf.train.Example(features=features).SerializeToString())
    return path


def read(path, *, encoded=True, size="auto", channels="auto"):
    options = {"size": size, "channels": channels, "resident_bytes": 0 if encoded else 10**9}
    if path.is_dir():
        return read_image_folders(path, **options)
    return read_tfrecords(str(path), image_key="image/encoded", label_key="image/class/label", **options)


def stream_images(examples: Examples, order, *, augments=(), resident=False):
    views = Views(augments, seed=1, count=None, examples=len(examples))
    table = views.table(2)
    if resident:
        feed = Feed(examples, views, classes=2, resident_bytes=10**9)
        gather = tf.function(lambda at: feed.gather(at, table, slot=0, total=4).inputs["x"], autograph=False)
        return [gather(tf.constant(at)).numpy() for at in order]
    stream = Stream(examples, views, batch_size=len(order[0]))
    return [batch[INPUTS_KEY]["x"].numpy() for batch in stream.batches(np.asarray(order), table=table)]


def gather_from_host(examples, at):
    return tf.function(lambda at: read_host_inputs(examples, at)["x"], autograph=False)(tf.constant(at)).numpy()


@pytest.mark.parametrize("size", ["auto", (6, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_encoded_images_of_every_format_equal_decoded_ones(tmp_path, size, channels):
    folder = save_folder(tmp_path / "data", all_formats())
    encoded, plain = (read(folder, encoded=kind, size=size, channels=channels) for kind in (True, False))
    for split in ("train", "test"):
        ours, theirs = getattr(encoded, split), getattr(plain, split)
        assert isinstance(ours.inputs["x"], EncodedImages) and isinstance(theirs.inputs["x"], np.ndarray)
        assert (ours.shapes, ours.dtypes, ours.bytes) == (theirs.shapes, theirs.dtypes, theirs.bytes)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        order = RANDOM.permutation(len(ours))
        np.testing.assert_array_equal(ours.take(order)["x"], theirs.take(order)["x"])
        np.testing.assert_array_equal(ours.inputs["x"][2:5], theirs.inputs["x"][2:5])
        np.testing.assert_array_equal(gather_from_host(ours, order), theirs.take(order)["x"])
    assert encoded.notes == plain.notes


@pytest.mark.parametrize("augments", [(), (Shift(pixels=1), Mixup(alpha=1.0))], ids=["plain", "mixed"])
def test_stream_of_encoded_images_equals_resident_ones(tmp_path, augments):
    path = save_records(tmp_path / "a.tfrecord", [jpeg(6, 6, 3) for _ in range(20)])
    order = RANDOM.permutation(20).reshape(5, 4)
    encoded = read(path).train.subset(np.arange(19, -1, -1))
    plain = read(path, encoded=False).train.subset(np.arange(19, -1, -1))
    ours = stream_images(encoded, order, augments=augments)
    theirs = stream_images(plain, order, augments=augments, resident=True)
    for here, there in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("on_disk", [False, True])
def test_store_leaves_no_files_and_does_not_need_the_originals(tmp_path, monkeypatch, on_disk):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(store.BytesWriter.__init__, "__kwdefaults__", {"memory_bytes": 100 if on_disk else 10**6})
    path = save_records(tmp_path / "a.tfrecord", [png(6, 6, 3) for _ in range(8)])
    expected = read(path, encoded=False).train.inputs["x"]
    encoded = read(path).train
    assert [file.name for file in tmp_path.iterdir()] == ["a.tfrecord"]
    assert isinstance(encoded.inputs["x"].stored.content, np.memmap) == on_disk
    path.unlink()
    np.testing.assert_array_equal(encoded.take(np.arange(8))["x"], expected)


def damage(content):
    """Truncate an image, so that only its header is valid."""
    return content[: len(content) // 2]


def test_damage_found_later_names_the_file_or_record(tmp_path):
    good = {f"{number}.png": png(6, 6, 3) for number in range(4)}
    folder = save_folder(tmp_path / "data", good)
    broken = folder / "train" / "dog" / "1.png"
    broken.write_bytes(damage(good["1.png"]))
    path = save_records(tmp_path / "a.tfrecord", [*good.values(), damage(good["2.png"])])
    for examples, name, at in ((read(folder).train, broken, 5), (read(path).train, f"{path} record 4", 4)):
        assert examples.take(np.array([0, 1])) is not None
        with pytest.raises(DataError) as caught:
            examples.take(np.array([1, at, 2]))
        assert caught.value.message == f"{name}: the image is damaged or truncated"
        assert caught.value.exit_code == 3


def test_damage_found_while_streaming_names_the_image(tmp_path):
    contents = [png(6, 6, 3) for _ in range(8)]
    contents[5] = damage(contents[5])
    path = save_records(tmp_path / "a.tfrecord", contents)
    examples = read(path).train
    stream = Stream(examples, Views((), seed=0, count=1, examples=8), batch_size=2)
    order, table = np.arange(8).reshape(4, 2), tf.zeros((1, 0))
    batches = stream.batches(order, table=table)
    for _ in range(2):
        next(batches)
    with pytest.raises(tf.errors.InvalidArgumentError):
        next(batches)
    stream.report_damage(order[:2], table=table)
    with pytest.raises(DataError, match=r"a\.tfrecord record 5: the image is damaged"):
        stream.report_damage(order, table=table)


def test_damage_of_a_mixing_partner_is_named(tmp_path):
    contents = [png(6, 6, 3) for _ in range(8)]
    contents[5] = damage(contents[5])
    examples = read(save_records(tmp_path / "a.tfrecord", contents)).train
    views = Views((Mixup(alpha=1.0),), seed=0, count=None, examples=8)
    stream = Stream(examples, views, batch_size=7)
    order = np.array([[0, 1, 2, 3, 4, 6, 7]])
    partnered = [view for view in range(20) if 5 in partners(views, order[0], view)]
    assert partnered
    with pytest.raises(DataError, match="record 5"):
        stream.report_damage(order, table=views.table(partnered[0]))


def partners(views, positions, view):
    return views.sources(tf.constant(positions), views.table(view), size=(6, 6))[1][0].numpy()


def test_fingerprint_depends_on_content_not_on_paths(tmp_path):
    contents = [png(6, 6, 3) for _ in range(8)]

    def of(name, contents, **options):
        splits = read(save_records(tmp_path / f"{name}.tfrecord", contents), **options)
        arrays = {"x": np.zeros((8, 1)), "y": np.arange(8) % 2}
        dataset = open_dataset(DataSection(), seed=0, arrays=arrays, split_validation=False)
        return fingerprint_dataset(type(dataset)(**{**vars(dataset), "train": splits.train}))

    same = of("a", contents)
    assert of("b", contents) == same
    assert of("c", contents[::-1]) != same
    assert of("d", [*contents[:7], contents[6]]) != same
    assert of("e", contents, size=(3, 3)) != same


def test_cifar10_stays_encoded(shared_data):
    path = shared_data / "cifar10"
    if not path.is_dir():
        pytest.skip("cifar10 is not available")
    (file,) = sorted(path.glob("test-*.tfrecord"))[:1]
    encoded, plain = (read(file, encoded=kind).train for kind in (True, False))
    at = RANDOM.permutation(len(encoded))[:300]
    np.testing.assert_array_equal(encoded.take(at)["x"], plain.take(at)["x"])
    np.testing.assert_array_equal(stream_images(encoded, [at])[0], plain.take(at)["x"])


def pixels(*shape):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def decode(contents, spec):
    return compile_decoder(spec)(tf.constant(contents)).numpy()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("target", [1, 3])
def test_channels_are_converted_to_grey_or_colour(channels, target):
    source = pixels(6, 5, channels)
    (found,) = decode([tf.io.encode_png(source).numpy()], ImageSpec(6, 5, target))
    colour = source[..., :3] if channels > 2 else np.repeat(source[..., :1], 3, axis=-1)
    if target == 3:
        np.testing.assert_array_equal(found, colour)
    elif channels < 3:
        np.testing.assert_array_equal(found, source[..., :1])
    else:
        exact = colour.astype(np.float64) @ [0.299, 0.587, 0.114]
        assert np.abs(found[..., 0] - exact).max() <= 0.5001


@pytest.mark.parametrize("size", [(12, 9), (40, 31)], ids=["smaller", "larger"])
def test_images_are_stretched_as_in_tensorflow_and_rounded(size):
    contents = [tf.io.encode_jpeg(pixels(20, 20, 3)).numpy() for _ in range(3)]
    found = decode(contents, ImageSpec(*size, 3))
    for image, content in zip(found, contents, strict=True):
        resized = tf.image.resize(tf.io.decode_jpeg(content), size, antialias=True).numpy()
        np.testing.assert_array_equal(image, np.clip(np.rint(resized), 0, 255).astype(np.uint8))


def test_batch_may_contain_images_of_different_sizes():
    contents = [tf.io.encode_png(pixels(*size, 3)).numpy() for size in ((4, 4), (9, 2), (1, 1))]
    found = decode(contents, ImageSpec(4, 4, 3))
    for image, content in zip(found, contents, strict=True):
        np.testing.assert_array_equal(image, decode([content], ImageSpec(4, 4, 3))[0])


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\0\0\0\0WEBPVP8 broken", b"\xff\xd8\xff\xe0", b"hello"])
def test_content_that_is_not_an_image_raises_a_tensorflow_error(content):
    with pytest.raises(tf.errors.OpError):
        decode([content], ImageSpec(4, 4, 3))


def test_decoder_is_traced_once_per_spec():
    spec = ImageSpec(3, 7, 1)
    assert compile_decoder(spec) is compile_decoder(ImageSpec(3, 7, 1))
    for count in (1, 5, 2):
        decode([tf.io.encode_png(pixels(3, 7, 1)).numpy()] * count, spec)
    assert compile_decoder(spec).experimental_get_tracing_count() == 1
