"""TFRecord files: splits by name, classes and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kdcli.data.split_names import find_file_split
from kdcli.data.tfrecords import read_tfrecords
from kdcli.errors import DataError

RANDOM = np.random.default_rng(0)
IMAGE, LABEL = "image/encoded", "image/class/label"


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value if isinstance(value, list) else [value]))


def save(path, examples):
    """Write a file of records; each is raw bytes or a mapping of features."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            if isinstance(example, dict):
                features = tf.train.Features(feature={key: feature(value) for key, value in example.items()})
                example = tf.train.Example(features=features).SerializeToString()
            writer.write(example)
    return path


def examples(count=4, *, image=IMAGE, label=LABEL, size=(4, 6)):
    made = RANDOM.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return made, [
        {image: tf.io.encode_png(pixels).numpy(), label: number % 2} for number, pixels in enumerate(made)
    ]


def read(path, *, image_key=IMAGE, label_key=LABEL, size="auto", channels="auto"):
    return read_tfrecords(str(path), image_key=image_key, label_key=label_key, size=size, channels=channels)


def refused(path, **options):
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00005.tfrecord", "train"),
        ("train.tfrecord", "train"),
        ("trainset1.tfrecord", "train"),
        ("Validation-0.tfrecord", "validation"),
        ("val_3.tfrecord", "validation"),
        ("valid.tfrecord", "validation"),
        ("dev-01.tfrecord", "validation"),
        ("TEST.tfrecord", "test"),
        ("flowers_train_00000-of-00005.tfrecord", "train"),
        ("flowers-test.tfrecord", "test"),
        ("part-00000.tfrecord", None),
        ("interval.tfrecord", None),
        ("contest.tfrecord", None),
        ("Training-1.tfrecord", "train"),
        ("flowers_testing.tfrecord", "test"),
        ("eval-0.tfrecord", "validation"),
        ("flowers.training_set.tfrecord", "train"),
    ],
)
def test_file_name_defines_the_split(name, split):
    assert find_file_split(name.removesuffix(".tfrecord")) == split


def test_folder_is_read_by_split_in_file_order(tmp_path):
    (one, a), (two, b), (held, c), (test, d) = (examples(count) for count in (3, 2, 2, 4))
    save(tmp_path / "train-00000-of-00002.tfrecord", a)
    save(tmp_path / "train-00001-of-00002.tfrecord", b)
    save(tmp_path / "val.tfrecord", c)
    save(tmp_path / "test.tfrecord", d)
    splits = read(tmp_path)
    np.testing.assert_array_equal(splits.train.inputs["x"], np.concatenate([one, two]))
    np.testing.assert_array_equal(splits.validation.inputs["x"], held)
    np.testing.assert_array_equal(splits.test.inputs["x"], test)
    assert splits.train.labels.tolist() == [0, 1, 0, 0, 1]
    assert (splits.classes, splits.notes) == (None, ())


def test_file_or_pattern_of_one_split_is_training_data(tmp_path):
    _, records = examples(3)
    for number in range(2):
        save(tmp_path / f"test-{number}.tfrecord", records)
    for path, count in ((tmp_path / "test-0.tfrecord", 3), (tmp_path / "test-*.tfrecord", 6)):
        splits = read(path)
        assert (len(splits.train), splits.test) == (count, None)
    save(tmp_path / "train-0.tfrecord", records)
    both = read(tmp_path / "t*.tfrecord")
    assert (len(both.train), len(both.test)) == (3, 6)


def test_files_without_split_names_are_training_data(tmp_path):
    _, records = examples(3)
    save(tmp_path / "a.tfrecord", records)
    save(tmp_path / "b.tfrecord", records)
    splits = read(tmp_path)
    assert (len(splits.train), splits.test) == (6, None)


def test_feature_names_can_be_set(tmp_path):
    made, records = examples(3, image="jpeg", label="y")
    path = save(tmp_path / "a.tfrecord", records)
    np.testing.assert_array_equal(read(path, image_key="jpeg", label_key="y").train.inputs["x"], made)


def test_sizes_and_channels_are_made_equal(tmp_path):
    path = save(tmp_path / "a.tfrecord", [*examples(2)[1], *examples(2, size=(5, 5))[1]])
    splits = read(path, channels=1)
    assert splits.train.shapes == {"x": (256, 256, 1)}
    assert "2 sizes (4×6, 5×5) are stretched to 256×256" in splits.notes[0]


@pytest.mark.parametrize(
    "text",
    ["cat\ndog\n", "0:cat\n1:dog\n", "1: dog\n0: cat", "cat\r\n\r\ndog", "0 cat\n1 dog", "\ufeff0  cat\r\n1 dog"],
)
def test_labels_file_names_the_classes(tmp_path, text):
    save(tmp_path / "a.tfrecord", examples()[1])
    (tmp_path / "labels.txt").write_text(text, "utf-8")
    assert read(tmp_path / "a.tfrecord").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ncat\n", "duplicate class name 'cat'"),
        (b"\n", "is empty"),
        (b"0:cat\n2:dog\n", "the numbers must be 0 to 1, each exactly once"),
        (b"\xff\xfe\xff", "is not UTF-8 text"),
    ],
)
def test_invalid_labels_file_is_refused(tmp_path, content, message):
    save(tmp_path / "a.tfrecord", examples()[1])
    (tmp_path / "labels.txt").write_bytes(content)
    found = refused(tmp_path / "a.tfrecord").message
    assert found.startswith(f"{tmp_path / 'labels.txt'}")
    assert message in found


@pytest.mark.parametrize("name", ["no.tfrecord", "no-*.tfrecord", "no/"])
def test_missing_file_is_refused(tmp_path, name):
    assert refused(f"{tmp_path}/{name}").message == f"{tmp_path}/{name}: no such file"


def test_missing_shard_is_named(tmp_path):
    for number in (0, 2):
        save(tmp_path / f"train-{number:05}-of-00004.tfrecord", examples(1)[1])
    expected = f"{tmp_path}: 2 of 4 files missing: train-00001-of-00004, train-00003-of-00004"
    assert refused(tmp_path).message == expected
    assert len(read(tmp_path / "train-*.tfrecord").train) == 2


def test_mixture_of_names_with_and_without_split_is_refused(tmp_path):
    save(tmp_path / "train.tfrecord", examples(1)[1])
    save(tmp_path / "more.tfrecord", examples(1)[1])
    expected = f"{tmp_path}: 1 of 2 file names do not contain a split: {tmp_path / 'more.tfrecord'}"
    assert refused(tmp_path).message == expected


def test_folder_without_training_files_is_refused(tmp_path):
    save(tmp_path / "test.tfrecord", examples(1)[1])
    assert refused(tmp_path).message == f"{tmp_path}: no train files"


@pytest.mark.parametrize("number", [0, 3, 600])
def test_truncated_file_names_the_record(tmp_path, number):
    records = examples(2)[1] * 301
    path = save(tmp_path / "a.tfrecord", records)
    whole = path.read_bytes()
    ends = [0]
    while ends[-1] < len(whole):
        ends.append(ends[-1] + 16 + int.from_bytes(whole[ends[-1] : ends[-1] + 8], "little"))
    path.write_bytes(whole[: ends[number] + 20])
    expected = f"{path}: damaged or truncated at record {number} (counted from 0)"
    assert refused(path).message == expected


def test_flipped_bit_is_detected(tmp_path):
    path = save(tmp_path / "a.tfrecord", examples(4)[1])
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert "damaged or truncated at record 3" in refused(path).message


def test_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"hello" * 20)
    assert "damaged or truncated at record 0" in refused(path).message
    path.write_bytes(b"")
    assert refused(path).message == f"{path}: no records"


def test_missing_feature_is_refused_with_the_existing_ones(tmp_path):
    good = examples(3)[1]
    path = save(tmp_path / "a.tfrecord", [*good, {"image/encode": b"x", "label": 0}])
    error = refused(path)
    assert error.message == (
        f"{path}: record 3: no feature 'image/encoded'; did you mean 'image/encode'? features: image/encode, label"
    )
    assert error.hint == "--set data.source.image_key=image/encode reads another feature"
    path = save(tmp_path / "b.tfrecord", [{"image/encoded": b"x"}])
    assert "no feature 'image/class/label'; features: image/encoded" in refused(path).message


@pytest.mark.parametrize("label", [1.5, b"cat", [0, 1]])
def test_label_that_is_not_one_integer_is_refused(tmp_path, label):
    path = save(tmp_path / "a.tfrecord", [{**examples(1)[1][0], LABEL: label}])
    expected = "record 0: feature 'image/class/label' must hold one int64_list value, got "
    assert expected + ("2" if isinstance(label, list) else "0") in refused(path).message


def test_record_that_is_not_an_example_is_refused(tmp_path):
    path = save(tmp_path / "a.tfrecord", [examples(1)[1][0], b"\xff\xff\xff"])
    assert refused(path).message == f"{path}: record 1 is not a tf.Example"


def test_image_that_cannot_be_decoded_names_its_record(tmp_path):
    good = examples(4)[1]
    good[2][IMAGE] = good[2][IMAGE][:60]
    path = save(tmp_path / "a.tfrecord", good)
    expected = f"{path}: 1 of 4 images cannot be read: {path} record 2 (damaged or truncated)"
    assert refused(path).message == expected


def test_cifar10_is_read(shared_data):
    folder = shared_data / "cifar10"
    if not folder.is_dir():
        pytest.skip("cifar10 is not available")
    splits = read(folder / "test-*.tfrecord")
    assert splits.train.shapes == {"x": (32, 32, 3)}
    assert np.bincount(splits.train.labels).tolist() == [1000] * 10
    assert splits.classes[:3] == ("airplane", "automobile", "bird")
