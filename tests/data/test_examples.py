"""Several arrays as one, each where it is."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.dataset import open_dataset
from kdcli.data.examples import Concatenation
from kdcli.recipe.sections import DataSection
from kdcli.runs.run_environment import hash_arrays

A = np.arange(24, dtype=np.uint8).reshape(8, 3)
B = np.arange(100, 115, dtype=np.uint8).reshape(5, 3)


def chain():
    return Concatenation([A, B, A], [np.array([7, 2, 2]), np.arange(5), np.array([0])])


WHOLE = np.concatenate([A[[7, 2, 2]], B, A[[0]]])


@pytest.mark.parametrize(
    "rows", [slice(None), slice(2, 5), np.array([8, 0, 3, 3, 7]), np.arange(9), np.array([], int)], ids=str
)
def test_rows_equal_those_of_concatenated_arrays(rows):
    np.testing.assert_array_equal(chain()[rows], WHOLE[rows])
    assert chain()[rows].dtype == np.uint8


def test_shape_and_size_equal_those_of_concatenated_arrays():
    made = chain()
    assert (len(made), made.shape, made.ndim, made.nbytes) == (9, WHOLE.shape, 2, WHOLE.nbytes)


def test_position_out_of_range_is_refused():
    with pytest.raises(IndexError):
        chain()[np.array([9])]


def test_hash_depends_on_content_and_rows():
    same = hash_arrays([chain()])
    assert hash_arrays([Concatenation([A.copy(), B, A], chain().rows)]) == same
    assert hash_arrays([Concatenation([A + 1, B, A], chain().rows)]) != same
    assert hash_arrays([Concatenation([A, B, A], [np.array([7, 2, 3]), np.arange(5), np.array([0])])]) != same


def test_split_all_does_not_copy_arrays(tmp_path):
    path = tmp_path / "d.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1), dtype=np.uint8))
    x, y = np.load(path, mmap_mode="r"), np.arange(60) % 3
    dataset = open_dataset(DataSection(), seed=0, arrays=(x[:40], y[:40], x[40:], y[40:]))
    everything = dataset.split("all")
    assert np.shares_memory(everything.inputs["x"].arrays[0], x)
    assert len(everything) == 60
    taken = everything.take(np.arange(60))["x"]
    parts = (dataset.train, dataset.validation, dataset.test)
    np.testing.assert_array_equal(taken, np.concatenate([part.take(np.arange(len(part)))["x"] for part in parts]))
    assert everything.all_labels().tolist() == [label for part in parts for label in part.all_labels()]
