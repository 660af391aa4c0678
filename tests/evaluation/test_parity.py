"""Comparing an exported file with its model, on known outputs."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.examples import Examples
from kdcli.evaluation.parity import Parity, Reference, compare_outputs, compute_outputs


class Network:
    """The attributes of a network that a comparison reads."""

    def __init__(self, output_kind="logits", outputs=3):
        self.saved_kind = output_kind
        self.outputs = outputs


OUTPUTS = np.array([[3.0, 0, 0], [0, 2, 0], [0, 0, 1], [1, 0, 0]], np.float32)
LABELS = np.array([0, 1, 2, 1])


def test_equal_outputs_have_no_drop():
    found = compare_outputs(OUTPUTS, Reference(Network(), OUTPUTS, LABELS, "classification"))
    assert found == Parity(0.0, 1.0, 0.75, 0.0)


def test_a_changed_prediction_counts_in_agreement_and_accuracy():
    other = OUTPUTS.copy()
    other[0] = [0, 0.5, 0]
    found = compare_outputs(other, Reference(Network(), OUTPUTS, LABELS, "classification"))
    assert found == Parity(3.0, 0.75, 0.5, 0.25)


def test_without_labels_only_the_predictions_are_compared():
    other = OUTPUTS[[1, 1, 2, 3]]
    found = compare_outputs(other, Reference(Network(), OUTPUTS, None, "classification"))
    assert found == Parity(3.0, 0.75, None, None)


def test_without_data_only_the_outputs_are_compared():
    assert compare_outputs(OUTPUTS + 0.5, Reference(Network(), OUTPUTS)) == Parity(0.5)


def test_values_are_compared_by_the_unexplained_variance():
    expected = np.array([[0.0], [2.0], [4.0]], np.float32)
    found = compare_outputs(
        expected + np.array([[0], [0.2], [0]]), Reference(Network("values", 1), expected, expected, "regression")
    )
    assert found.max_abs_diff == pytest.approx(0.2)
    assert found.unexplained == pytest.approx(0.04 / 8)
    assert (found.agreement, found.accuracy, found.accuracy_drop) == (None, None, None)


def test_constant_outputs_have_no_variance_to_explain():
    expected = np.ones((3, 1), np.float32)
    reference = Reference(Network("values", 1), expected, expected, "regression")
    assert compare_outputs(expected, reference).unexplained == 0
    assert compare_outputs(expected + 1, reference).unexplained == 1


def test_probabilities_are_compared_by_their_largest():
    expected = np.array([[0.2, 0.8, 0.0], [0.5, 0.1, 0.4]], np.float32)
    other = np.array([[0.3, 0.7, 0.0], [0.4, 0.1, 0.5]], np.float32)
    found = compare_outputs(
        other, Reference(Network("probabilities"), expected, np.array([1, 0]), "classification")
    )
    assert (found.agreement, found.accuracy, found.accuracy_drop) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("kind", "expected"), [("sigmoid", [[0.9], [0.2]]), ("logits", [[2.0], [-1.0]])])
def test_a_single_output_stands_for_two_classes(kind, expected):
    expected = np.array(expected, np.float32)
    reference = Reference(Network(kind, 2), expected, np.array([1, 0]), "classification")
    assert compare_outputs(expected, reference).accuracy == 1.0
    assert compare_outputs(expected[::-1].copy(), reference).accuracy == 0.0


def test_independent_outputs_are_compared_one_by_one():
    expected = np.array([[0.9, 0.4], [0.3, 0.8]], np.float32)
    other = np.array([[0.9, 0.6], [0.3, 0.8]], np.float32)
    labels = np.array([[1, 0], [0, 1]])
    found = compare_outputs(other, Reference(Network("sigmoid", 2), expected, labels, "multilabel"))
    assert (found.agreement, found.accuracy, found.accuracy_drop) == (0.75, 0.75, 0.25)


def test_outputs_are_computed_once_per_example_and_in_order():
    examples = Examples("test", {"x": np.arange(10)}, None, None, np.arange(2, 9))
    progress: list[int] = []
    outputs = compute_outputs(lambda raw: raw["x"] * 2, examples, batch_size=3, on_batch=progress.append)
    assert outputs.tolist() == [4, 6, 8, 10, 12, 14, 16]
    assert progress == [3, 6, 7]
