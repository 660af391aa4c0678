"""Metrics, gains and verdicts, computed from run documents and predictions written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kdcli.comparison.arms import Arm
from kdcli.comparison.gains import Judge
from kdcli.errors import StorageError
from kdcli.evaluation.statistics import PairedDecisions, estimate_gain
from kdcli.runs.directory import PREDICTIONS_FILE
from kdcli.runs.results import FinishedRun

EXAMPLES = 100


@pytest.fixture
def make_run(tmp_path):
    """A finished run, from the number of its correct test examples or from its metrics."""

    def make(name: str, seed: int, correct: int | np.ndarray = 0, *, test=None, validation=None, **document):
        folder = tmp_path / f"{name}-{seed}"
        folder.mkdir()
        if isinstance(correct, int):
            correct = np.arange(EXAMPLES) < correct
        # Stored in another order than that of the index.
        index = np.random.default_rng(seed).permutation(EXAMPLES)
        labels = np.zeros(EXAMPLES, np.int64)
        logits = np.eye(2)[np.where(correct[index], 0, 1)]
        np.savez(folder / PREDICTIONS_FILE, logits=logits, labels=labels, index=index)
        test = {"accuracy": float(correct.mean())} if test is None else {"accuracy": None, **test}
        values = {"test": test, "validation": validation or {}, "parameters": 7, "bytes": 28, **document}
        return FinishedRun(folder, folder / "student.keras", values)

    return make


def judge(finished, *, task="classification", failed=None, **teacher):
    """A judge of `scratch` and distilled arms."""
    arms = [
        Arm(name, name, request=None, baseline=None if name == "scratch" else "scratch", seeds=tuple(runs))
        for name, runs in finished.items()
    ]
    return Judge(arms, finished, failed or {}, task=task, **teacher)


def pairs_of(make_run, scores, **arms):
    """Runs of the baseline, and of arms that have so many more correct examples."""
    finished = {"scratch": {seed: make_run("scratch", seed, score) for seed, score in enumerate(scores)}}
    for name, more in arms.items():
        finished[name] = {seed: make_run(name, seed, score + more) for seed, score in enumerate(scores)}
    return finished


def test_one_pair_is_judged_over_the_test_examples(make_run):
    finished = pairs_of(make_run, [70], distilled=15)
    scratch, distilled = judge(finished).judge_students()
    expected = PairedDecisions(EXAMPLES, wins=15, losses=0)
    gain = distilled.gain
    assert (gain.mean, gain.p, gain.level, gain.over) == (0.15, expected.mcnemar(), 0.95, "examples")
    assert (gain.low, gain.high) == expected.interval()
    assert (scratch.mean, scratch.sd, scratch.gain, scratch.verdict) == (0.7, None, None, None)
    assert (distilled.mean, distilled.verdict, distilled.baseline) == (0.85, "better", "scratch")


def test_several_pairs_are_judged_over_seeds_and_test_examples(make_run):
    scores, seeds = [50, 60, 55], range(3)
    finished = {
        "scratch": {seed: make_run("scratch", seed, scores[seed]) for seed in seeds},
        "distilled": {seed: make_run("distilled", seed, scores[seed] + 2 + 10 * seed) for seed in seeds},
    }
    gain = judge(finished).judge_students()[1].gain
    wins = [(np.arange(EXAMPLES) >= scores[s]) & (np.arange(EXAMPLES) < scores[s] + 2 + 10 * s) for s in seeds]
    sampling = np.mean(wins, axis=0).std(ddof=1) / np.sqrt(EXAMPLES)
    expected = estimate_gain([0.02, 0.12, 0.22], sampling=sampling)
    assert (gain.mean, gain.low, gain.high, gain.p) == pytest.approx(
        (expected.mean, expected.low, expected.high, expected.p)
    )
    assert (gain.level, gain.over) == (0.95, "repeats")


def test_equal_runs_have_a_gain_of_exactly_0_and_are_inconclusive(make_run):
    distilled = judge(pairs_of(make_run, [70, 70], distilled=0)).judge_students()[1]
    assert (distilled.gain.mean, distilled.gain.p, distilled.verdict) == (0.0, 1.0, "inconclusive")
    assert all((pair.gained, pair.lost, pair.p) == (0, 0, 1.0) for pair in distilled.pairs)


def test_arms_are_tested_together(make_run):
    """Holm: the smallest p is tested at 0.05 / 2, the next at 0.05."""
    finished = pairs_of(make_run, [50], much=30, little=1)
    _, much, little = judge(finished).judge_students()
    assert (much.gain.level, little.gain.level) == (0.975, 0.95)
    assert (much.verdict, little.verdict) == ("better", "inconclusive")
    alone = judge({name: finished[name] for name in ("scratch", "much")}).judge_students()[1]
    assert alone.gain.level == 0.95 and alone.gain.low > much.gain.low


def test_only_seeds_of_both_arms_are_paired(make_run):
    finished = pairs_of(make_run, [50, 60], distilled=10)
    finished["distilled"][7] = make_run("distilled", 7, 100)
    distilled = judge(finished).judge_students()[1]
    assert [pair.seed for pair in distilled.pairs] == [0, 1]
    assert distilled.gain.mean == pytest.approx(0.1)
    assert [run.seed for run in distilled.runs] == [0, 1, 7]


def test_wins_and_losses_are_counted_by_the_index_of_the_examples(make_run):
    ours, theirs = np.arange(EXAMPLES) < 40, np.arange(EXAMPLES) >= 30
    finished = {
        "scratch": {0: make_run("scratch", 0, theirs)},
        "distilled": {1: make_run("distilled", 1, ours), 0: make_run("distilled", 0, ours)},
    }
    (pair,) = judge(finished).judge_students()[1].pairs
    assert (pair.gained, pair.lost, pair.difference) == (30, 60, pytest.approx(-0.3))
    assert judge(finished).measure_disagreement() == pytest.approx(0.9)


def test_a_failed_arm_has_a_status_and_no_results(make_run):
    finished = {**pairs_of(make_run, [50], good=5), "bad": {}}
    scratch, good, bad = judge(finished, failed={"bad": "loss is not finite"}).judge_students()
    assert (scratch.status, good.status, bad.status) == ("finished", "finished", "failed: loss is not finite")
    assert (bad.runs, bad.mean, bad.gain, bad.verdict) == ((), None, None, None)


@pytest.mark.parametrize("repeats", [1, 2])
def test_regression_is_judged_by_its_error_where_less_is_better(make_run, repeats):
    finished = {
        "scratch": {seed: make_run("scratch", seed, test={"rmse": 2.0 + seed}) for seed in range(repeats)},
        "distilled": {seed: make_run("distilled", seed, test={"rmse": 1.5 + seed}) for seed in range(repeats)},
    }
    judged = judge(finished, task="regression")
    distilled = judged.judge_students()[1]
    assert (judged.metric, distilled.gain.mean, distilled.accuracy) == ("rmse", 0.5, None)
    assert (distilled.pairs, distilled.mcnemar_p, judged.measure_disagreement()) == ((), None, None)
    # The values of one pair have no test.
    if repeats == 1:
        assert (distilled.gain.low, distilled.gain.p, distilled.verdict) == (None, None, "inconclusive")
    else:
        assert (distilled.gain.low, distilled.verdict) == (0.5, "better")


def test_the_picked_model_is_the_best_on_validation(make_run):
    finished = {
        "scratch": {0: make_run("scratch", 0, 90, validation={"accuracy": 0.8, "loss": 0.5})},
        "distilled": {
            0: make_run("distilled", 0, 50, validation={"accuracy": 0.9, "loss": 0.4}),
            1: make_run("distilled", 1, 60, validation={"accuracy": 0.9, "loss": 0.3}),
        },
    }
    judged = judge(finished)
    # Between equal accuracies the loss decides; the test split does not count.
    assert judged.pick_model() == finished["distilled"][1].model_path
    finished["scratch"][1] = make_run("scratch", 1, 90, validation={"accuracy": 0.7, "loss": 0.5})
    distilled = judged.judge_students()[1]
    assert distilled.mcnemar_seed == 1
    assert distilled.mcnemar_p == PairedDecisions(EXAMPLES, wins=0, losses=30).mcnemar()


def test_no_model_is_picked_without_validation(make_run):
    assert judge(pairs_of(make_run, [50], distilled=5)).pick_model() is None


def test_metrics_are_means_over_the_runs_that_all_have_them(make_run):
    finished = {
        "scratch": {0: make_run("scratch", 0, 50)},
        "distilled": {
            0: make_run(
                "distilled", 0, test={"accuracy": 0.5, "loss": 1.0, "ece": 0.1}, teacher={"agreement": 0.6}
            ),
            1: make_run(
                "distilled", 1, test={"accuracy": 0.7, "loss": 2.0, "ece": None}, teacher={"agreement": 0.8}
            ),
        },
    }
    distilled = judge(finished).judge_students()[1]
    assert distilled.test == {"accuracy": pytest.approx(0.6), "loss": 1.5}
    assert distilled.sd == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert (distilled.agreement, distilled.parameters, distilled.bytes) == (pytest.approx(0.7), 7, 28)


@pytest.mark.parametrize(
    ("scores", "known"),
    [([50, 52, 48], True), ([98, 100, 97], False), ([50, 90, 97], False), ([50], True), ([99], False)],
)
def test_gap_recovered_is_given_if_the_gap_is_significant(make_run, scores, known):
    finished = {
        "scratch": {seed: make_run("scratch", seed, score) for seed, score in enumerate(scores)},
        "distilled": {seed: make_run("distilled", seed, min(100, score + 2)) for seed, score in enumerate(scores)},
    }
    judged = judge(finished, teacher_score=1.0, teacher_correct=np.ones(EXAMPLES, bool))
    scratch, distilled = judged.judge_students()
    assert scratch.teacher_gap.mean == pytest.approx(1 - np.mean(scores) / 100)
    assert (scratch.teacher_gap.low > 0) == known
    assert distilled.gap_recovered == (pytest.approx(0.02 / (1 - np.mean(scores) / 100)) if known else None)


def test_the_gap_covers_seeds_and_test_examples(make_run):
    scores = [50, 60]
    judged = judge(
        pairs_of(make_run, scores, distilled=1), teacher_score=1.0, teacher_correct=np.ones(EXAMPLES, bool)
    )
    gap = judged.judge_students()[0].teacher_gap
    gaps, wins = [0.5, 0.4], np.mean([np.arange(EXAMPLES) >= score for score in scores], axis=0)
    half = max(
        stats.t.ppf(0.975, 1) * np.std(gaps, ddof=1) / np.sqrt(2),
        stats.norm.ppf(0.975) * wins.std(ddof=1) / np.sqrt(EXAMPLES),
    )
    assert (gap.mean, gap.low, gap.high) == pytest.approx((0.45, 0.45 - half, 0.45 + half))


def test_there_is_no_gap_without_a_teacher_score(make_run):
    scratch, distilled = judge(pairs_of(make_run, [50], distilled=10)).judge_students()
    assert (scratch.teacher_gap, distilled.gap_recovered) == (None, None)


def test_predictions_that_cannot_be_read_are_an_error(make_run):
    finished = pairs_of(make_run, [50], distilled=10)
    path: Path = finished["distilled"][0].run / PREDICTIONS_FILE
    path.write_bytes(b"damaged")
    with pytest.raises(StorageError, match="cannot read the predictions") as caught:
        judge(finished).judge_students()
    assert str(path) in caught.value.message and "--overwrite" in caught.value.hint
