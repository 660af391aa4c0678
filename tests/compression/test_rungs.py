"""Who goes on after a rung: the best, or a smaller file within one standard error of it."""

from __future__ import annotations

import numpy as np

from kdcli.compression.metric import PairedMetric
from kdcli.compression.rungs import choose_survivors, rank

COUNT = 400
LABELS = np.arange(COUNT) % 2
SIZES = {"large": 400, "medium": 300, "small": 200, "tiny": 100}


def with_accuracy(accuracy, *, shift=0):
    """Logits that are right on some of the examples, from a position on."""
    right = (np.arange(COUNT) + shift) % COUNT < accuracy * COUNT
    return np.eye(2)[np.where(right, LABELS, 1 - LABELS)] * 10


TEACHER = with_accuracy(0.95)


def order(accuracies, *, max_drop=None, smallest=False, progress=1.0, shift=0):
    logits = {name: with_accuracy(value, shift=shift * at) for at, (name, value) in enumerate(accuracies.items())}
    metric = PairedMetric("accuracy", "classification", LABELS, TEACHER)
    standings = rank(logits, SIZES, metric, max_drop=max_drop, smallest=smallest, progress=progress)
    return standings, [one.name for one in standings]


def test_the_best_comes_first():
    standings, names = order({"large": 0.9, "medium": 0.8, "small": 0.7})
    assert names == ["large", "medium", "small"]
    assert [round(one.behind, 3) for one in standings] == [0, 0.1, 0.2]
    assert standings[0].drop == 0.95 - 0.9


def test_before_the_end_the_best_go_on_whatever_their_size():
    accuracies = {"large": 0.9, "medium": 0.8975, "small": 0.895, "tiny": 0.8925}
    standings, names = order(accuracies, shift=100, progress=1 / 16)
    assert names == ["large", "medium", "small", "tiny"]
    assert [one.name for one in choose_survivors(standings, smallest=False)] == ["large", "medium"]


def test_a_smaller_file_wins_within_one_standard_error():
    # They differ on many examples, so that half a point is within the error.
    assert order({"large": 0.9, "small": 0.895}, shift=100)[1] == ["small", "large"]
    # They differ on two examples only: the error is small.
    assert order({"large": 0.9, "small": 0.88})[1] == ["large", "small"]


def test_a_smaller_file_wins_only_inside_the_allowed_drop():
    accuracies = {"large": 0.9, "small": 0.895}
    assert order(accuracies, shift=100, max_drop=0.052)[1] == ["large", "small"]
    assert order(accuracies, shift=100, max_drop=0.06)[1] == ["small", "large"]


def test_where_the_smallest_file_is_searched_the_allowed_drop_decides():
    accuracies = {"large": 0.95, "medium": 0.94, "small": 0.92, "tiny": 0.8}
    assert order(accuracies, max_drop=0.02, smallest=True)[1] == ["medium", "large", "small", "tiny"]
    # Early, with a sixteenth of the training, four times the drop is allowed.
    names = order(accuracies, max_drop=0.02, smallest=True, progress=1 / 16)[1]
    assert names == ["small", "medium", "large", "tiny"]


def test_a_third_goes_on():
    accuracies = {"large": 0.95, "medium": 0.94, "small": 0.92, "tiny": 0.8}
    standings, _ = order(accuracies, max_drop=0.02, smallest=True, progress=1 / 16)
    assert [one.name for one in choose_survivors(standings, smallest=False)] == ["small", "medium"]
    # The most accurate one stays too where the smallest file is searched.
    assert [one.name for one in choose_survivors(standings, smallest=True)] == ["small", "large"]


def test_a_candidate_without_a_value_comes_last():
    values = np.linspace(0, 1, COUNT)[:, None]
    outputs = {"large": np.full((COUNT, 1), np.nan), "small": values + 0.3}
    metric = PairedMetric("mae", "regression", values, values)
    ranked = rank(outputs, SIZES, metric, max_drop=None, smallest=False, progress=1.0)
    assert [one.name for one in ranked] == ["small", "large"]
    assert np.isnan(ranked[1].value)
