"""Image folders: layouts, formats, ignored files and refusals."""

from __future__ import annotations

import base64
import os
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from kdcli.data import encoded_images
from kdcli.data.image_folders import read_image_folders
from kdcli.errors import DataError
from kdcli.recipe.reader import read_recipe

RANDOM = np.random.default_rng(0)
LOSSLESS_WEBP = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
GIF = base64.b64decode("R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs=")


def random_image(height=4, width=6, channels=3):
    return RANDOM.integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path, pixels=None, *, jpeg=False):
    """Save an image and return its pixels."""
    pixels = random_image() if pixels is None else pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((tf.io.encode_jpeg if jpeg else tf.io.encode_png)(pixels).numpy())
    return pixels


def fill(folder, *, splits=("train", "test"), classes=("cat", "dog"), each=2):
    for split in splits:
        for name in classes:
            for number in range(each):
                save(folder / split / name / f"{number}.png")
    return folder


def read(folder, *, size="auto", channels="auto"):
    return read_image_folders(folder, size=size, channels=channels)


def error(folder, **options):
    with pytest.raises(DataError) as caught:
        read(folder, **options)
    assert caught.value.exit_code == 3
    return caught.value


def refused(folder, **options):
    return error(folder, **options).message


def load_as_hinted(hint):
    """Load the splits that the `--set` of a hint selects."""
    words = shlex.split(hint)
    return read_recipe({}, settings=[words[words.index("--set") + 1]]).recipe.data.source.load()


def test_splits_classes_and_pixels_are_read(tmp_path):
    saved = {}
    for split in ("train", "valid", "TEST"):
        for name in ("b", "a", "C"):
            saved[split.lower(), name] = [save(tmp_path / split / name / f"{number}.png") for number in (0, 1)]
    splits = read(tmp_path)
    assert splits.classes == ("C", "a", "b")
    for split, key in (("train", "train"), ("validation", "valid"), ("test", "test")):
        part = getattr(splits, split)
        assert (part.split, part.labels.tolist()) == (split, [0, 0, 1, 1, 2, 2])
        assert part.inputs["x"].dtype == np.uint8
        expected = np.stack([pixels for name in ("C", "a", "b") for pixels in saved[key, name]])
        np.testing.assert_array_equal(part.inputs["x"], expected)
    assert splits.notes == ()


def test_class_folders_without_splits_are_training_data(tmp_path):
    splits = read(fill(tmp_path, splits=(".",), classes=("x", "y"), each=3))
    assert (len(splits.train), splits.validation, splits.test) == (6, None, None)


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Training", None, "Testing"),
        ("TRAIN", "Valid", "TEST"),
        ("training_set", None, "test_set"),
        ("train_data", "validation_data", "test_data"),
        ("seg_train", None, "seg_test"),
        ("train-images", "val_images", "TestImages"),
        ("trainset", "valset", "testset"),
        ("train2017", "val2017", "test2017"),
        ("asl_alphabet_train", None, "asl_alphabet_test"),
        ("flowers-training", "flowers-dev", None),
        ("train/train", None, "test/test"),
        ("dataset/train", "dataset/validation", "dataset/test"),
        ("a/b/Train/images", None, "a/b/Test/images"),
        ("seg_train/seg_train", None, "seg_test/seg_test"),
        ("train", "dev", None),
        ("train", "Eval", "test"),
    ],
)
def test_common_split_names_are_recognized(tmp_path, train, validation, test):
    names = {"train": (train, 3), "validation": (validation, 1), "test": (test, 2)}
    for name, each in names.values():
        if name:
            fill(tmp_path, splits=(name,), classes=("cats", "dogs"), each=each)
    splits = read(tmp_path)
    assert splits.classes == ("cats", "dogs")
    for split, (name, each) in names.items():
        part = getattr(splits, split)
        assert (part is None) == (name is None)
        if part:
            assert part.labels.tolist() == [0] * each + [1] * each


@pytest.mark.parametrize(
    "classes",
    [("contest", "latest"), ("steel_test", "copper_test"), ("test_a", "test_b"), ("pretrain", "cats"), ("x", "y")],
)
def test_class_names_that_resemble_splits_are_classes(tmp_path, classes):
    splits = read(fill(tmp_path, splits=(".",), classes=classes))
    assert (splits.classes, splits.test, splits.notes) == (tuple(sorted(classes)), None, ())


def test_single_outer_folder_is_entered_with_a_note(tmp_path):
    fill(tmp_path, splits=("data/train", "data/test"))
    assert read(tmp_path).notes == (f"{tmp_path}: contains only one folder; read {tmp_path / 'data'}",)


def test_folder_of_unlabelled_examples_is_ignored_with_a_note(tmp_path):
    fill(tmp_path, splits=("seg_train", "seg_test"))
    save(tmp_path / "seg_pred" / "1.png")
    splits = read(tmp_path)
    assert (len(splits.train), len(splits.test), splits.classes) == (4, 4, ("cat", "dog"))
    assert splits.notes == (
        f"{tmp_path / 'seg_pred'}: ignored, because its name stands for examples without classes",
    )


def test_splits_inside_classes_are_read(tmp_path):
    fill(tmp_path, splits=("cat", "dog", "emu"), classes=("train", "test"), each=3)
    splits = read(tmp_path)
    assert splits.classes == ("cat", "dog", "emu")
    assert splits.train.labels.tolist() == splits.test.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    saved = tf.io.decode_png((tmp_path / "dog" / "test" / "1.png").read_bytes()).numpy()
    np.testing.assert_array_equal(splits.test.inputs["x"][4], saved)
    assert splits.notes == (f"{tmp_path}: read the folders train, test inside each class as splits",)


def test_folders_with_equal_folders_are_refused_with_a_working_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "d", splits=("check it",), each=2)
    fill(tmp_path / "d", splits=("learn",), each=3)
    found = error(Path("d"))
    expected = "d: check it, learn contain the same folders (cat, dog), like splits and unlike classes"
    assert found.message == expected
    splits = load_as_hinted(found.hint)
    assert (len(splits.train), len(splits.test), splits.classes) == (6, 4, ("cat", "dog"))


@pytest.mark.parametrize("inner", [("images",), ("a", "b")])
def test_class_folders_may_contain_folders(tmp_path, inner):
    fill(tmp_path, splits=("cat", "dog"), classes=inner)
    if len(inner) > 1:
        save(tmp_path / "dog" / "0.png")
    assert read(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize("layout", ["{}", "train/{}", "{}/train"])
@pytest.mark.parametrize("names", [("images", "masks"), ("Images", "labels"), ("img", "ground_truth")])
def test_images_and_label_maps_are_not_read_as_classes(tmp_path, layout, names):
    for name in names:
        for split in ("train", "test"):
            save(tmp_path / layout.format(name).replace("train", split) / "0.png")
    assert f"{names[0]} and {names[1]} look like images and their label maps" in refused(tmp_path)


def test_class_without_images_is_refused_with_splits_inside_classes(tmp_path):
    fill(tmp_path, splits=("cat", "dog"), classes=("train", "test"), each=1)
    (tmp_path / "dog" / "test" / "0.png").unlink()
    assert refused(tmp_path) == f"{tmp_path}: no images in dog"


def test_folder_of_tables_is_refused_with_a_working_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("Training", "test"):
        (tmp_path / f"{name}.csv").write_text("a,label\n1,x\n2,y\n")
    splits = load_as_hinted(error(Path(".")).hint)
    assert (len(splits.train), len(splits.test)) == (2, 2)


def test_all_formats_are_read_with_unusual_names(tmp_path):
    folder = tmp_path / "Küche & Bad 猫"
    plain = save(folder / "ä b.PNG", random_image(1, 1))
    smooth = np.full((1, 1, 3), 90, np.uint8)
    save(folder / "c.jpg", smooth, jpeg=True)
    save(folder / "d.JPEG", smooth, jpeg=True)
    (folder / "e.Gif").write_bytes(GIF)
    rows = struct.pack("<BBBx", 3, 2, 1)
    head = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 58, 0, 0, 54, 40, 1, 1, 1, 24, 0, 4, 0, 0, 0, 0)
    (folder / "f.bmp").write_bytes(head + rows)
    (folder / "g.webp").write_bytes(LOSSLESS_WEBP)
    # The format is detected from the content, not from the suffix.
    same = save(folder / "h.jpg", random_image(1, 1))
    save(tmp_path / "other" / "i.png", random_image(1, 1))
    splits = read(tmp_path)
    assert splits.classes == ("Küche & Bad 猫", "other")
    found = splits.train.inputs["x"][:, 0, 0]
    assert found.shape == (8, 3)
    # In string order, "c" and "d" come before "ä".
    np.testing.assert_array_equal(found[6], plain[0, 0])
    np.testing.assert_array_equal(found[5], same[0, 0])
    assert np.abs(found[:2].astype(int) - 90).max() <= 2
    assert found[3].tolist() == [1, 2, 3]


def test_nested_folders_belong_to_their_class(tmp_path):
    save(tmp_path / "a" / "deep" / "er" / "1.png")
    save(tmp_path / "a" / "0.png")
    save(tmp_path / "b" / "0.png")
    assert read(tmp_path).train.labels.tolist() == [0, 0, 1]


def test_grey_images_have_one_channel_and_transparency_is_dropped(tmp_path):
    saved = save(tmp_path / "a" / "0.png", random_image(channels=1))
    save(tmp_path / "b" / "0.png", random_image(channels=2))
    splits = read(tmp_path)
    assert splits.train.shapes == {"x": (4, 6, 1)}
    np.testing.assert_array_equal(splits.train.inputs["x"][0], saved)
    colour = save(tmp_path / "b" / "1.png", random_image(channels=4))
    splits = read(tmp_path)
    assert splits.train.shapes == {"x": (4, 6, 3)}
    np.testing.assert_array_equal(splits.train.inputs["x"][0], np.repeat(saved, 3, axis=-1))
    np.testing.assert_array_equal(splits.train.inputs["x"][2], colour[..., :3])
    assert splits.notes == (f"{tmp_path}: 2 of 3 images are grey and are converted to colour",)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_setting_converts_images(tmp_path, channels):
    colour = save(tmp_path / "a" / "0.png")
    save(tmp_path / "b" / "0.png", random_image(channels=1))
    found = read(tmp_path, channels=channels).train.inputs["x"]
    assert found.shape == (2, 4, 6, channels)
    if channels == 1:
        grey = colour @ np.array([0.299, 0.587, 0.114])
        assert np.abs(found[0, ..., 0] - grey).max() <= 0.51


def test_images_of_different_sizes_are_stretched_with_a_note(tmp_path):
    save(tmp_path / "a" / "0.png", np.full((8, 10, 3), 77, np.uint8))
    save(tmp_path / "b" / "0.png", random_image(9, 10))
    splits = read(tmp_path)
    assert splits.train.shapes == {"x": (256, 256, 3)}
    assert (splits.train.inputs["x"][0] == 77).all()
    assert splits.notes == (
        f"{tmp_path}: images of 2 sizes (8×10, 9×10) are stretched to 256×256; "
        "--set 'data.source.size=[128, 128]' sets another size",
    )
    chosen = read(tmp_path, size=(4, 5))
    assert (chosen.train.shapes, chosen.notes) == ({"x": (4, 5, 3)}, ())


def test_ignored_files_are_counted_in_a_note(tmp_path):
    fill(tmp_path)
    (tmp_path / "readme.md").write_text("x")
    (tmp_path / "train" / "cat" / "a.txt").write_text("x")
    (tmp_path / "train" / "cat" / "b.TXT").write_text("x")
    (tmp_path / "train" / "dog" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "train" / "dog" / "LICENSE").write_text("x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "train" / "dog" / ".ipynb_checkpoints").mkdir()
    save(tmp_path / "train" / "loose.png")
    (note,) = read(tmp_path).notes
    assert note.startswith(f"{tmp_path}: ignored files that are not images: 8 (3 hidden, 2 .txt, ")
    assert "1 outside the class folders" in note


def test_missing_folder_is_refused(tmp_path):
    assert refused(tmp_path / "no") == f"{tmp_path / 'no'}: no such folder"


def test_folder_without_folders_and_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert refused(tmp_path) == f"{tmp_path}: no image folders"


def test_images_in_no_folder_have_no_labels(tmp_path):
    for name in ("b.png", "a.png"):
        save(tmp_path / name)
    splits = read(tmp_path)
    assert len(splits.train) == 2
    assert splits.train.labels is None
    assert splits.classes is None
    assert splits.notes == (f"{tmp_path}: the images are in no class folders, so they have no labels",)


def test_split_folder_next_to_class_folder_is_refused(tmp_path):
    fill(tmp_path, splits=("train",))
    save(tmp_path / "cat" / "0.png")
    found = error(tmp_path)
    assert found.message == f"{tmp_path}: train is a split name, but cat in the same folder is not"
    assert len(load_as_hinted(found.hint).train) == 4


def test_split_without_class_folders_is_refused(tmp_path):
    fill(tmp_path, splits=("train",))
    save(tmp_path / "test" / "0.png")
    found = error(tmp_path)
    assert found.message == f"{tmp_path / 'test'}: no class folders"
    assert found.hint == f"--data {tmp_path / 'train'} ignores it"


def test_missing_train_folder_is_refused(tmp_path):
    assert refused(fill(tmp_path, splits=("test",))) == f"{tmp_path}: no train folder; found test"


def test_two_folders_for_one_split_are_refused(tmp_path):
    fill(tmp_path, splits=("train", "val", "dev"))
    found = error(tmp_path)
    assert found.message == f"{tmp_path}: dev and val both name the validation split"
    splits = load_as_hinted(found.hint)
    assert (len(splits.validation), len(splits.test)) == (4, 4)


def test_empty_class_is_refused(tmp_path):
    fill(tmp_path)
    (tmp_path / "train" / "emu").mkdir()
    (tmp_path / "train" / "emu" / "notes.txt").write_text("x")
    assert refused(tmp_path) == f"{tmp_path / 'train'}: no images in emu"


def test_different_classes_in_splits_are_refused(tmp_path):
    fill(tmp_path)
    save(tmp_path / "test" / "emu" / "0.png")
    expected = f"{tmp_path}: classes differ between splits: emu in test, but not in train"
    assert refused(tmp_path) == expected
    save(tmp_path / "train" / "emu" / "0.png")
    save(tmp_path / "train" / "fox" / "0.png")
    assert "fox in train, but not in test" in refused(tmp_path)


def test_corrupt_images_are_named_and_counted(tmp_path):
    fill(tmp_path, each=4)
    broken = [tmp_path / "train" / "cat" / f"{number}.png" for number in range(3)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-30])
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: 3 of 16 images cannot be read: {broken[0]} (damaged or truncated), ")
    assert all(str(path) in message for path in broken)


def test_first_five_of_many_corrupt_images_are_named(tmp_path):
    fill(tmp_path, each=4)
    for number in range(4):
        for name in ("cat", "dog"):
            (tmp_path / "train" / name / f"{number}.png").write_bytes(b"not an image")
    message = refused(tmp_path)
    assert "8 of 16 images cannot be read" in message
    assert message.count("not a JPEG, PNG, GIF, BMP or WebP image") == 5
    assert message.endswith(" and 3 more")


def test_image_with_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    fill(tmp_path)
    bomb = tmp_path / "train" / "cat" / "0.png"
    content = bytearray(bomb.read_bytes())
    content[16:24] = struct.pack(">II", 60000, 60000)
    bomb.write_bytes(content)
    monkeypatch.setattr(encoded_images, "compile_decoder", lambda *_: pytest.fail("decoded"))
    assert f"{bomb} (60000×60000 pixels, more than 100,000,000)" in refused(tmp_path)


def test_unreadable_file_is_named(tmp_path):
    fill(tmp_path)
    gone = tmp_path / "train" / "cat" / "0.png"
    gone.unlink()
    gone.symlink_to(tmp_path / "nowhere.png")
    assert f"{gone} (No such file or directory)" in refused(tmp_path)


def test_class_name_that_is_not_utf_8_is_refused(tmp_path):
    fill(tmp_path, splits=(".",))
    odd = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(odd)
    message = refused(tmp_path)
    assert message.endswith(r"\xff\xfe: the class name is not valid UTF-8")
    message.encode("utf-8")


def test_file_name_that_is_not_utf_8_is_accepted(tmp_path):
    fill(tmp_path, splits=(".",))
    content = (tmp_path / "cat" / "0.png").read_bytes()
    odd = os.fsencode(tmp_path) + b"/cat/\xff.png"
    with open(odd, "wb") as file:
        file.write(content)
    assert len(read(tmp_path).train) == 5
