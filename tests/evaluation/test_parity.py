"""What an exported file has in common with its model, on answers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.data.examples import Examples
from kdcli.evaluation.parity import Parity, Reference, compare_outputs, compute_outputs


class Network:
    """The part of a network that comparing looks at."""

    def __init__(self, output_kind="logits", outputs=3):
        self.saved_kind = output_kind
        self.outputs = outputs


OWN = np.array([[3.0, 0, 0], [0, 2, 0], [0, 0, 1], [1, 0, 0]], np.float32)
LABELS = np.array([0, 1, 2, 1])


def test_equal_answers_lose_nothing():
    found = compare_outputs(OWN, Reference(Network(), OWN, LABELS, "classification"))
    assert found == Parity(0.0, 1.0, 0.75, 0.0)


def test_a_changed_decision_counts_in_agreement_and_accuracy():
    other = OWN.copy()
    other[0] = [0, 0.5, 0]
    found = compare_outputs(other, Reference(Network(), OWN, LABELS, "classification"))
    assert found == Parity(3.0, 0.75, 0.5, 0.25)


def test_without_labels_only_the_decisions_are_compared():
    other = OWN[[1, 1, 2, 3]]
    found = compare_outputs(other, Reference(Network(), OWN, None, "classification"))
    assert found == Parity(3.0, 0.75, None, None)


def test_without_data_only_the_numbers_are_compared():
    assert compare_outputs(OWN + 0.5, Reference(Network(), OWN)) == Parity(0.5)


def test_values_are_compared_by_the_share_of_variance_that_is_missed():
    own = np.array([[0.0], [2.0], [4.0]], np.float32)
    found = compare_outputs(
        own + np.array([[0], [0.2], [0]]), Reference(Network("values", 1), own, own, "regression")
    )
    assert found.max_abs_diff == pytest.approx(0.2)
    assert found.unexplained == pytest.approx(0.04 / 8)
    assert (found.agreement, found.accuracy, found.accuracy_drop) == (None, None, None)


def test_a_constant_answer_has_no_variance_to_miss():
    own = np.ones((3, 1), np.float32)
    reference = Reference(Network("values", 1), own, own, "regression")
    assert compare_outputs(own, reference).unexplained == 0
    assert compare_outputs(own + 1, reference).unexplained == 1


def test_probabilities_decide_as_they_are():
    own = np.array([[0.2, 0.8, 0.0], [0.5, 0.1, 0.4]], np.float32)
    other = np.array([[0.3, 0.7, 0.0], [0.4, 0.1, 0.5]], np.float32)
    found = compare_outputs(other, Reference(Network("probabilities"), own, np.array([1, 0]), "classification"))
    assert (found.agreement, found.accuracy, found.accuracy_drop) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("kind", "own"), [("sigmoid", [[0.9], [0.2]]), ("logits", [[2.0], [-1.0]])])
def test_a_single_output_decides_between_two_classes(kind, own):
    own = np.array(own, np.float32)
    reference = Reference(Network(kind, 2), own, np.array([1, 0]), "classification")
    assert compare_outputs(own, reference).accuracy == 1.0
    assert compare_outputs(own[::-1].copy(), reference).accuracy == 0.0


def test_independent_outputs_decide_each_for_itself():
    own = np.array([[0.9, 0.4], [0.3, 0.8]], np.float32)
    other = np.array([[0.9, 0.6], [0.3, 0.8]], np.float32)
    labels = np.array([[1, 0], [0, 1]])
    found = compare_outputs(other, Reference(Network("sigmoid", 2), own, labels, "multilabel"))
    assert (found.agreement, found.accuracy, found.accuracy_drop) == (0.75, 0.75, 0.25)


def test_every_example_is_asked_once_and_in_order():
    examples = Examples("test", {"x": np.arange(10)}, None, None, np.arange(2, 9))
    told: list[int] = []
    asked = compute_outputs(lambda raw: raw["x"] * 2, examples, batch_size=3, on_batch=told.append)
    assert asked.tolist() == [4, 6, 8, 10, 12, 14, 16]
    assert told == [3, 6, 7]
