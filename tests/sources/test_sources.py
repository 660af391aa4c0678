"""The sources digits, keras and arrays."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.errors import DataError
from kdcli.lazy import keras
from kdcli.sources import Arrays, Digits, KerasDataset


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A home folder with an empty Keras cache, without network access."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setenv("KD_OFFLINE", "1")
    cache = tmp_path / ".keras" / "datasets"
    cache.mkdir(parents=True)
    return cache


def test_digits_have_two_splits_and_class_names():
    splits = Digits().load()
    assert (len(splits.train), len(splits.test), splits.validation) == (1437, 360, None)
    assert splits.classes == tuple("0123456789")


@pytest.mark.parametrize("part", ["train", "test"])
def test_digits_use_the_range_of_bytes_and_contain_every_class(part):
    split = getattr(Digits().load(), part)
    images = split.inputs["x"]
    assert images.dtype == np.uint8
    assert split.shapes == {"x": (8, 8, 1)}
    assert (images.min(), images.max()) == (0, 255)
    counts = np.bincount(split.all_labels())
    assert len(counts) == 10
    assert counts.min() > 0.08 * len(split)


def test_digits_do_not_share_examples_between_splits():
    splits = Digits().load()
    seen = {image.tobytes() for image in splits.train.inputs["x"]}
    assert not any(image.tobytes() in seen for image in splits.test.inputs["x"])


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_uncached_data_set_is_refused_offline(offline, monkeypatch, name):
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: pytest.fail("used the network"))
    with pytest.raises(DataError) as caught:
        KerasDataset(name=name).load()
    assert caught.value.exit_code == 3
    assert caught.value.message == f"{name}: not cached, and KD_OFFLINE forbids the download"
    assert f"--data {name}.npz" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("mnist", "mnist.npz"),
        ("fashion_mnist", "fashion-mnist"),
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python-target"),
    ],
)
def test_cached_data_set_is_read_offline(offline, monkeypatch, name, entry):
    (offline / entry).mkdir()
    part = np.zeros((4, 8, 8), np.uint8), np.arange(4)[:, None]
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: (part, part))
    splits = KerasDataset(name=name).load()
    assert (len(splits.train), len(splits.test)) == (4, 4)
    assert splits.classes == (100 if name == "cifar100" else 10)


def test_cache_of_another_data_set_is_not_used_offline(offline):
    (offline / "cifar-100-python").mkdir()
    (offline / "fashion-mnist").mkdir()
    for name in ("cifar10", "mnist"):
        with pytest.raises(DataError, match=f"{name}: not cached"):
            KerasDataset(name=name).load()


def test_failed_download_is_a_data_error(monkeypatch):
    def fail():
        raise Exception("URL fetch failure")

    monkeypatch.delenv("KD_OFFLINE", raising=False)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.raises(DataError, match="mnist: cannot be read: URL fetch failure"):
        KerasDataset(name="mnist").load()


def test_mnist_is_read_from_a_file(shared_data):
    path = shared_data / "mnist.npz"
    if not path.exists():
        pytest.skip("mnist.npz is not available")
    splits = Arrays(path=str(path)).load()
    assert (len(splits.train), len(splits.test)) == (60000, 10000)
    assert splits.train.shapes == {"x": (28, 28)}
    assert splits.train.all_labels()[:5].tolist() == [5, 0, 4, 1, 9]
