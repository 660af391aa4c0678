"""TFRecord files: splits by name, classes, and every way in which they can be wrong."""

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
    """A file of records; each is bytes as they are, or a mapping of features."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for given in examples:
            if isinstance(given, dict):
                features = tf.train.Features(feature={key: feature(value) for key, value in given.items()})
                given = tf.train.Example(features=features).SerializeToString()
            writer.write(given)
    return path


def pictures(count=4, *, image=IMAGE, label=LABEL, size=(4, 6)):
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
def test_the_name_of_a_file_tells_its_split(name, split):
    assert find_file_split(name.removesuffix(".tfrecord")) == split


def test_a_folder_has_its_splits_in_the_order_of_the_files(tmp_path):
    (one, a), (two, b), (held, c), (test, d) = (pictures(count) for count in (3, 2, 2, 4))
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


def test_one_file_and_a_pattern_of_one_split_are_everything(tmp_path):
    _, records = pictures(3)
    for number in range(2):
        save(tmp_path / f"test-{number}.tfrecord", records)
    for path, count in ((tmp_path / "test-0.tfrecord", 3), (tmp_path / "test-*.tfrecord", 6)):
        splits = read(path)
        assert (len(splits.train), splits.test) == (count, None)
    save(tmp_path / "train-0.tfrecord", records)
    both = read(tmp_path / "t*.tfrecord")
    assert (len(both.train), len(both.test)) == (3, 6)


def test_files_whose_names_tell_nothing_are_all_for_training(tmp_path):
    _, records = pictures(3)
    save(tmp_path / "a.tfrecord", records)
    save(tmp_path / "b.tfrecord", records)
    splits = read(tmp_path)
    assert (len(splits.train), splits.test) == (6, None)


def test_features_of_other_names(tmp_path):
    made, records = pictures(3, image="jpeg", label="y")
    path = save(tmp_path / "a.tfrecord", records)
    np.testing.assert_array_equal(read(path, image_key="jpeg", label_key="y").train.inputs["x"], made)


def test_sizes_and_channels_are_made_equal(tmp_path):
    path = save(tmp_path / "a.tfrecord", [*pictures(2)[1], *pictures(2, size=(5, 5))[1]])
    splits = read(path, channels=1)
    assert splits.train.shapes == {"x": (256, 256, 1)}
    assert "2 sizes (4×6, 5×5) are stretched to 256×256" in splits.notes[0]


@pytest.mark.parametrize(
    "text",
    ["cat\ndog\n", "0:cat\n1:dog\n", "1: dog\n0: cat", "cat\r\n\r\ndog", "0 cat\n1 dog", "\ufeff0  cat\r\n1 dog"],
)
def test_a_file_of_labels_names_the_classes(tmp_path, text):
    save(tmp_path / "a.tfrecord", pictures()[1])
    (tmp_path / "labels.txt").write_text(text, "utf-8")
    assert read(tmp_path / "a.tfrecord").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ncat\n", "names 'cat' twice"),
        (b"\n", "is empty"),
        (b"0:cat\n2:dog\n", "its numbers must be 0 to 1, each once"),
        (b"\xff\xfe\xff", "is not UTF-8 text"),
    ],
)
def test_wrong_files_of_labels(tmp_path, content, message):
    save(tmp_path / "a.tfrecord", pictures()[1])
    (tmp_path / "labels.txt").write_bytes(content)
    found = refused(tmp_path / "a.tfrecord").message
    assert found.startswith(f"{tmp_path / 'labels.txt'}")
    assert message in found


@pytest.mark.parametrize("name", ["no.tfrecord", "no-*.tfrecord", "no/"])
def test_no_file(tmp_path, name):
    assert refused(f"{tmp_path}/{name}").message == f"{tmp_path}/{name}: no such file"


def test_a_shard_that_is_missing_is_named(tmp_path):
    for number in (0, 2):
        save(tmp_path / f"train-{number:05}-of-00004.tfrecord", pictures(1)[1])
    expected = f"{tmp_path}: 2 of 4 files are missing: train-00001-of-00004, train-00003-of-00004"
    assert refused(tmp_path).message == expected
    assert len(read(tmp_path / "train-*.tfrecord").train) == 2


def test_names_of_which_only_some_tell_a_split(tmp_path):
    save(tmp_path / "train.tfrecord", pictures(1)[1])
    save(tmp_path / "more.tfrecord", pictures(1)[1])
    expected = f"{tmp_path}: the names of 1 files tell no split ({tmp_path / 'more.tfrecord'}), others do"
    assert refused(tmp_path).message == expected


def test_a_folder_without_training_files(tmp_path):
    save(tmp_path / "test.tfrecord", pictures(1)[1])
    assert refused(tmp_path).message == f"{tmp_path}: has no train files"


@pytest.mark.parametrize("number", [0, 3, 600])
def test_a_file_that_is_cut_off_names_the_record(tmp_path, number):
    records = pictures(2)[1] * 301
    path = save(tmp_path / "a.tfrecord", records)
    whole = path.read_bytes()
    ends = [0]
    while ends[-1] < len(whole):
        ends.append(ends[-1] + 16 + int.from_bytes(whole[ends[-1] : ends[-1] + 8], "little"))
    path.write_bytes(whole[: ends[number] + 20])
    expected = f"{path}: damaged or cut off at record {number} (counted from 0)"
    assert refused(path).message == expected


def test_a_flipped_bit_is_noticed(tmp_path):
    path = save(tmp_path / "a.tfrecord", pictures(4)[1])
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert "damaged or cut off at record 3" in refused(path).message


def test_something_else_with_that_suffix(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"hello" * 20)
    assert "damaged or cut off at record 0" in refused(path).message
    path.write_bytes(b"")
    assert refused(path).message == f"{path}: holds no records"


def test_a_missing_feature_names_those_that_are_there(tmp_path):
    good = pictures(3)[1]
    path = save(tmp_path / "a.tfrecord", [*good, {"image/encode": b"x", "label": 0}])
    error = refused(path)
    assert error.message == (
        f"{path}: record 3 has no feature 'image/encoded'; did you mean 'image/encode'? "
        "features: image/encode, label"
    )
    assert error.hint == "--set data.source.image_key=image/encode names another"
    path = save(tmp_path / "b.tfrecord", [{"image/encoded": b"x"}])
    assert "has no feature 'image/class/label'; features: image/encoded" in refused(path).message


@pytest.mark.parametrize("label", [1.5, b"cat", [0, 1]])
def test_a_label_that_is_not_one_whole_number(tmp_path, label):
    path = save(tmp_path / "a.tfrecord", [{**pictures(1)[1][0], LABEL: label}])
    expected = "record 0: the feature 'image/class/label' must hold one value of int64_list, got "
    assert expected + ("2" if isinstance(label, list) else "0") in refused(path).message


def test_a_record_that_is_no_example(tmp_path):
    path = save(tmp_path / "a.tfrecord", [pictures(1)[1][0], b"\xff\xff\xff"])
    assert refused(path).message == f"{path}: record 1 is no tf.Example"


def test_a_picture_that_cannot_be_decoded_names_its_record(tmp_path):
    good = pictures(4)[1]
    good[2][IMAGE] = good[2][IMAGE][:60]
    path = save(tmp_path / "a.tfrecord", good)
    expected = f"{path}: 1 of 4 pictures cannot be read: {path} record 2 (damaged or cut off)"
    assert refused(path).message == expected


def test_real_cifar_is_read(shared_data):
    folder = shared_data / "cifar10"
    if not folder.is_dir():
        pytest.skip("no cifar10 beside the checkout")
    splits = read(folder / "test-*.tfrecord")
    assert splits.train.shapes == {"x": (32, 32, 3)}
    assert np.bincount(splits.train.labels).tolist() == [1000] * 10
    assert splits.classes[:3] == ("airplane", "automobile", "bird")
