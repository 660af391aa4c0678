"""Commands on image folders, TFRecord files and tables."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

MLP = "teacher.model={kind: zoo, name: mlp, width: 8, depth: 1}"


def save_folder(folder, splits):
    """Save images as PNG files by class; return arrays in the order in which they are read."""
    arrays = {}
    for split, (images, labels) in splits.items():
        order = np.argsort(labels, kind="stable")
        arrays[f"x_{split}"], arrays[f"y_{split}"] = images[order], labels[order]
        for number, place in enumerate(order):
            path = folder / split / f"class {labels[place]}" / f"{number:03}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(images[place]).numpy())
    return arrays


def train(kd, data, out, *more):
    words = ("--set", MLP, "--epochs", "1", "--batch-size", "8", "--quiet")
    return kd("train-teacher", "--data", data, "--out", out, *words, *more)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_image_folder_gives_the_same_result_as_arrays(kd, tmp_path):
    arrays = save_folder(tmp_path / "d", {"train": blobs(48), "test": blobs(24, seed=1)})
    np.savez(tmp_path / "d.npz", **arrays)
    (tmp_path / "d" / "notes.txt").write_text("x")
    ran = train(kd, "d", "a")
    assert ran.code == 0, ran.err
    assert train(kd, "d.npz", "b").code == 0
    ours, theirs = summary(tmp_path / "a"), summary(tmp_path / "b")
    assert ours["test"]["accuracy"] == theirs["test"]["accuracy"]
    assert ours["test"]["loss"] == pytest.approx(theirs["test"]["loss"], rel=1e-6)
    # Both runs record the same hash, because data is identified by content.
    environments = [json.loads((tmp_path / run / "environment.json").read_text()) for run in "ab"]
    assert len({entry["inputs"]["data"]["sha256"] for entry in environments}) == 1


def test_ignored_files_are_reported(kd, tmp_path):
    save_folder(tmp_path / "d", {"train": blobs(24), "test": blobs(12, seed=1)})
    (tmp_path / "d" / "notes.txt").write_text("x")
    ran = kd("train-teacher", "--data", "d", "--dry-run", "--set", MLP, "--epochs", "1")
    assert ran.code == 0, ran.err
    assert "ignored files that are not images: 1 (1 .txt)" in " ".join(ran.err.split())


def test_corrupt_image_exits_with_3_before_writing(kd, tmp_path):
    save_folder(tmp_path / "d", {"train": blobs(24), "test": blobs(12, seed=1)})
    broken = tmp_path / "d" / "train" / "class 0" / "001.PNG"
    broken.write_bytes(broken.read_bytes()[:50])
    ran = train(kd, "d", "a")
    assert ran.code == 3
    text = " ".join(ran.err.split())
    assert f"d: 1 of 36 images cannot be read: {broken.relative_to(tmp_path)} (damaged or truncated)" in text
    assert not (tmp_path / "a").exists()


def test_run_resumes_after_its_data_files_were_moved(kd, tmp_path):
    random = np.random.default_rng(0)
    for name, count in (("a.csv", 40), ("b.csv", 20)):
        values = random.normal(size=(count, 3))
        kinds = np.where(values.sum(1) > 0, "up", "down")
        rows = [f"{x},{y},{z},{kind}" for (x, y, z), kind in zip(values, kinds, strict=True)]
        (tmp_path / name).write_text("x,y,z,label\n" + "\n".join(rows) + "\n")
    words = ("train-teacher", "--set", MLP, "--epochs", "1", "--quiet", "--out", "run")
    ran = kd(*words, "--set", "data.source={train: a.csv, test: b.csv}")
    assert ran.code == 0, ran.err
    assert summary(tmp_path / "run")["test"]["examples"] == 20
    (tmp_path / "a.csv").rename(tmp_path / "c.csv")
    again = kd(*words, "--resume", "--set", "data.source={train: c.csv, test: b.csv}")
    assert again.code == 0, again.err
    other = kd(*words, "--resume", "--set", "data.source={train: b.csv, test: b.csv}")
    assert (other.code, "the data has changed since" in " ".join(other.err.split())) == (2, True)


def test_overwrite_does_not_delete_input_images(kd, tmp_path):
    assert train(kd, "digits", "run", "--limit", "60").code == 0
    save_folder(tmp_path / "run" / "d", {"train": blobs(24), "test": blobs(12, seed=1)})
    ran = train(kd, "run/d", "run", "--overwrite")
    assert ran.code == 2
    assert "--overwrite would delete an input: run/d" in " ".join(ran.err.split())
    assert (tmp_path / "run" / "d" / "train").is_dir()


def test_evaluate_reads_tfrecords(kd, tmp_path):
    assert train(kd, "digits", "run", "--limit", "60").code == 0
    images, labels = blobs(20)
    with tf.io.TFRecordWriter(str(tmp_path / "test-0.tfrecord")) as writer:
        for pixels, label in zip(images, labels, strict=True):
            encoded = tf.io.encode_png(pixels).numpy()
            features = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    (tmp_path / "labels.txt").write_text("\n".join("0123456789"))
    ran = kd("evaluate", "run", "--data", "test-*.tfrecord", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["models"][0]["examples"] == 20


def test_evaluate_reports_ignored_files(kd, tmp_path):
    assert train(kd, "digits", "run", "--limit", "60").code == 0
    save_folder(tmp_path / "d", {"train": blobs(60, classes=6), "test": blobs(30, classes=6, seed=1)})
    (tmp_path / "d" / "notes.txt").write_text("x")
    for number in range(6, 10):
        for split in ("train", "test"):
            first = next((tmp_path / "d" / split / "class 0").iterdir())
            copy = tmp_path / "d" / split / f"class {number}" / "0.png"
            copy.parent.mkdir()
            copy.write_bytes(first.read_bytes())
    ran = kd("evaluate", "run", "--data", "d")
    assert ran.code == 0, ran.err
    assert "ignored files that are not images: 1 (1 .txt)" in " ".join(ran.err.split())


def test_data_hints_work_when_typed(kd, tmp_path):
    for split, seed in (("lessons", 0), ("trial", 1)):
        save_folder(tmp_path / "d" / split, {".": blobs(24 if split == "lessons" else 12, seed=seed)})
    (tmp_path / "t.csv").write_text("a,b,kind\n" + "".join(f"{n % 5},{n % 7},{n % 2}\n" for n in range(40)))
    for data, count in (("d", 12), ("t.csv", 0)):
        words = ("train-teacher", "--set", MLP, "--epochs", "1", "--batch-size", "8", "--out", f"run {data}")
        ran = kd(*words, "--data", data, "--json")
        assert ran.code == 3
        hint = shlex.split(ran.document["error"]["hint"])
        typed = hint[hint.index("--set") :][:2]
        # A hint that sets the whole source replaces `--data`.
        data_option = () if typed[1].startswith("data.source=") else ("--data", data)
        again = kd(*words, *data_option, *typed, "--json")
        assert again.code == 0, again.err
        assert (again.document["test"] or {}).get("examples", 0) == count
