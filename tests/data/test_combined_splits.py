"""Splits combined from several sources."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import blobs, save_npz

from kdcli.data.combined_splits import combine_splits
from kdcli.data.named_arrays import splits_from_arrays
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


def test_source_without_splits_is_used_as_a_whole():
    joined = combine_splits({"train": part("a"), "test": part("b", x=X[:3], y=Y[:3])})
    assert (joined.name, len(joined.train), joined.validation, len(joined.test)) == ("a + b", 12, None, 3)
    assert (joined.train.split, joined.test.split) == ("train", "test")


def test_source_with_splits_provides_the_split_of_that_name(tmp_path):
    digits = Digits().load()
    joined = combine_splits({"train": digits, "validation": part("b", x=X, y=Y), "test": digits})
    assert joined.name == "digits + b"
    assert (len(joined.train), len(joined.validation), len(joined.test)) == (1437, 12, 360)
    assert joined.classes == tuple("0123456789")


def test_source_that_lacks_its_split_is_refused():
    assert refused(train=part("a"), validation=Digits().load()) == (
        "data.source.validation: digits has no validation split; available: train, test"
    )


def test_different_classes_are_refused():
    assert refused(train=part("a", classes=("u", "v")), test=part("b", classes=("v", "w"))) == (
        "classes differ between splits: u in a, but not in b"
    )
    assert "in different order" in refused(train=part("a", classes=("u", "v")), test=part("b", classes=("v", "u")))
    assert refused(train=part("a", classes=10), test=part("b", classes=("v", "u"))) == (
        "b: 2 classes; expected 10 as in a"
    )


def test_different_columns_are_refused():
    assert refused(train=part("a", columns=("u", "v")), test=part("b", columns=("u",))) == (
        "columns differ between splits: v in a, but not in b"
    )
    reordered = refused(train=part("a", columns=("u", "v")), test=part("b", columns=("v", "u")))
    assert reordered == "columns differ between splits: a and b list them in different order"


def test_different_inputs_are_refused():
    other = {"x.left": X, "y": Y}
    assert refused(train=part("a"), test=part("b", **other)) == "b: inputs left; expected x as in a"


def test_only_the_training_split_keeps_weights():
    weighted = {"x": X, "y": Y, "weight": np.ones(12)}
    joined = combine_splits({"train": part("a", **weighted), "test": part("b", **weighted)})
    assert (joined.train.weights is not None, joined.test.weights) == (True, None)


def test_one_file_can_provide_several_splits(tmp_path):
    from kdcli.sources import Arrays

    file = Arrays(path=str(save_npz(tmp_path / "d.npz"))).load()
    joined = combine_splits({"train": file, "test": file})
    assert (len(joined.train), len(joined.test)) == (96, 48)
