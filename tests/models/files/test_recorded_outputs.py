"""Recorded outputs: read, checked, and looked up by the row of an example."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from kdcli.errors import ModelError
from kdcli.models.files.recorded_outputs import RecordedNetwork

LOGITS = np.arange(12, dtype=np.float32).reshape(4, 3)


def opened(tmp_path, **arrays):
    path = tmp_path / "answers.npz"
    np.savez(path, **{"logits": LOGITS, "index": np.array([5, 0, 2, 9]), **arrays})
    return RecordedNetwork(path, name="answers.npz")


def without(tmp_path, *names, **arrays):
    path = tmp_path / "answers.npz"
    content = {"logits": LOGITS, "index": np.arange(4), **arrays}
    np.savez(path, **{name: array for name, array in content.items() if name not in names})
    return RecordedNetwork(path, name="answers.npz")


def test_outputs_are_looked_up_by_row(tmp_path):
    network = opened(tmp_path, fingerprint=np.array("abc"))
    np.testing.assert_array_equal(network.read_logits(np.array([2, 5, 2])), LOGITS[[2, 0, 2]])
    assert (network.outputs, network.output_shape, network.fingerprint) == (3, (3,), "abc")
    assert (network.recorded_kind, network.taps, network.variables, network.parameters) == ("logits", {}, [], None)
    assert len(network.sha256) == 64


def test_missing_outputs_are_counted_and_the_first_five_listed(tmp_path):
    with pytest.raises(ModelError) as caught:
        opened(tmp_path).recorded(np.arange(12))
    assert caught.value.message == (
        "answers.npz: has no outputs for 8 of 12 examples of the training split (index 1, 3, 4, 6, 7, ...)"
    )
    with pytest.raises(ModelError, match=r"no outputs for 1 of 2 .* \(index 10\)"):
        opened(tmp_path).recorded(np.array([9, 10]))


def test_probabilities_become_logits(tmp_path):
    shares = np.array([[0.2, 0.8], [1.0, 0.0]], np.float32)
    network = without(tmp_path, "logits", probabilities=shares, index=np.arange(2))
    assert network.recorded_kind == "probabilities"
    logits = network.with_output_kinds("probabilities", output_kind="logits").read_logits(np.arange(2))
    np.testing.assert_allclose(logits[0], np.log(shares[0]), rtol=1e-6)
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(network.with_columns([1]).recorded(np.array([1])), shares[1:])


def test_logits_take_precedence_over_probabilities(tmp_path):
    assert opened(tmp_path, probabilities=np.full((4, 3), 1 / 3)).recorded_kind == "logits"


def test_other_inputs_are_refused(tmp_path):
    network = opened(tmp_path)
    for ask in (network.compute_saved_output, network.compute):
        with pytest.raises(ModelError, match="recorded outputs cover only the training examples"):
            ask({"x": np.zeros((1, 3))})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"index": np.array([1, 2, 1, 2])}, r"2 examples have more than one output \(index 1, 2\)"),
        ({"index": np.arange(3)}, r"index is int64 of shape \(3,\) \(expected 4 whole numbers"),
        ({"index": np.arange(4) - 1}, "whole numbers from 0"),
        ({"index": np.arange(4.0)}, r"index is float64 of shape \(4,\)"),
        ({"logits": np.where(LOGITS == 7, np.nan, LOGITS)}, "1 of 4 outputs are NaN or infinite .first in row 2"),
        (
            {"logits": np.arange(4.0)},
            r"logits is float64 of shape \(4,\) \(expected numbers of shape \(n, outputs\)",
        ),
        ({"logits": LOGITS.astype(str)}, "numbers"),
        ({"logits": LOGITS[:0], "index": np.arange(0)}, "numbers"),
        ({"logits": np.array([[object()]] * 4)}, "pickled objects, which could run code"),
    ],
    ids=["twice", "length", "negative", "float", "nan", "flat", "text", "empty", "pickled"],
)
def test_invalid_outputs_are_refused(tmp_path, arrays, message):
    with pytest.raises(ModelError, match=message):
        opened(tmp_path, **arrays)


@pytest.mark.parametrize(("name", "missing"), [("index", "index"), ("logits", "logits, probabilities or values")])
def test_a_missing_array_is_named(tmp_path, name, missing):
    with pytest.raises(ModelError, match=f"recorded outputs without {missing}") as caught:
        without(tmp_path, name)
    assert "kd predict" in caught.value.hint


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    opened(tmp_path)
    path = tmp_path / "answers.npz"
    content = path.read_bytes()
    path.write_bytes(content[:-30] if damage == "cut" else b"hello")
    with pytest.raises(ModelError, match=r"not a readable \.npz file"):
        RecordedNetwork(path, name="answers.npz")


def test_sparse_rows_need_little_memory(tmp_path):
    network = opened(tmp_path, index=np.array([10**15, 0, 2, 9]))
    np.testing.assert_array_equal(network.recorded(np.array([9, 10**15])), LOGITS[[3, 0]])
    with pytest.raises(ModelError, match="has no outputs for 2 of 3"):
        network.recorded(np.array([9, 10, 10**15 + 1]))


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, logits=np.zeros((3_000_000, 4), np.float32), index=np.zeros(3_000_000, int))
    with pytest.raises(ModelError, match="refused, size: unpacks from"):
        RecordedNetwork(path, name="bomb.npz")


def test_an_array_that_the_file_cannot_fill_is_refused(tmp_path):
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10)}
    np.lib.format.write_array_header_1_0(header, described)
    path = tmp_path / "header.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("logits.npy", header.getvalue())
        archive.writestr("index.npy", header.getvalue())
    with pytest.raises(ModelError, match=r"refused, size: logits\.npy has shape"):
        RecordedNetwork(path, name="header.npz")
