"""Splits from several sources."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import blobs, save_npz

from kdcli.data.arrays import splits_from_arrays
from kdcli.data.combined_splits import combine_splits
from kdcli.errors import DataError
from kdcli.sources import Digits

X, Y = blobs(12)


def part(name, *, classes=None, columns=None, **arrays):
    from dataclasses import replace

    arrays = arrays or {"x": X, "y": Y}
    return replace(splits_from_arrays(arrays, name=name, classes=classes), columns=columns)


def refused(**parts):
    with pytest.raises(DataError) as caught:
        combine_splits(parts)
    assert caught.value.exit_code == 3
    return caught.value.message


def test_sources_without_splits_are_taken_whole():
    joined = combine_splits({"train": part("a"), "test": part("b", x=X[:3], y=Y[:3])})
    assert (joined.name, len(joined.train), joined.validation, len(joined.test)) == ("a + b", 12, None, 3)
    assert (joined.train.split, joined.test.split) == ("train", "test")


def test_of_a_source_with_splits_the_one_of_that_name_is_taken(tmp_path):
    digits = Digits().load()
    joined = combine_splits({"train": digits, "validation": part("b", x=X, y=Y), "test": digits})
    assert joined.name == "digits + b"
    assert (len(joined.train), len(joined.validation), len(joined.test)) == (1437, 12, 360)
    assert joined.classes == tuple("0123456789")


def test_a_source_without_that_split_is_refused():
    assert refused(train=part("a"), validation=Digits().load()) == (
        "data.source.validation: digits has no validation split; there is train, test"
    )


def test_classes_that_differ_are_named():
    assert refused(train=part("a", classes=("u", "v")), test=part("b", classes=("v", "w"))) == (
        "classes differ between splits: a has u, b has not"
    )
    assert "in another order" in refused(train=part("a", classes=("u", "v")), test=part("b", classes=("v", "u")))
    assert refused(train=part("a", classes=10), test=part("b", classes=("v", "u"))) == (
        "b has 2 classes, a has 10"
    )


def test_columns_that_differ_are_named():
    assert refused(train=part("a", columns=("u", "v")), test=part("b", columns=("u",))) == (
        "columns differ between splits: a has v, b has not"
    )
    assert "columns differ between splits: a and b have them in another order" == refused(
        train=part("a", columns=("u", "v")), test=part("b", columns=("v", "u"))
    )


def test_inputs_that_differ_are_named():
    other = {"x.left": X, "y": Y}
    assert refused(train=part("a"), test=part("b", **other)) == "b has the inputs left, a has x"


def test_weights_are_those_of_training():
    weighted = {"x": X, "y": Y, "weight": np.ones(12)}
    joined = combine_splits({"train": part("a", **weighted), "test": part("b", **weighted)})
    assert (joined.train.weights is not None, joined.test.weights) == (True, None)


def test_a_file_with_splits_serves_all_of_them(tmp_path):
    from kdcli.sources import Arrays

    file = Arrays(path=str(save_npz(tmp_path / "d.npz"))).load()
    joined = combine_splits({"train": file, "test": file})
    assert (len(joined.train), len(joined.test)) == (96, 48)
