"""Metrics, gains and verdicts of all arms, from the finished runs of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from kdcli.comparison.arms import Arm
from kdcli.errors import StorageError
from kdcli.evaluation.quality import MAIN_METRIC
from kdcli.evaluation.statistics import ALPHA, PairedDecisions, decide_verdict, estimate_gain, holm_levels
from kdcli.recipe.sections import LOWER_IS_BETTER
from kdcli.runs.comparison_results import ComparedRun, ComparedStudent, MeasuredGain, PairedRun
from kdcli.runs.directory import PREDICTIONS_FILE
from kdcli.runs.results import FinishedRun, RunResult

# Finished runs by arm and seed.
RunsOfArms = Mapping[str, Mapping[int, RunResult | FinishedRun]]
# Which test examples two models classify correctly, in the order of their index.
_CorrectPair = tuple[np.ndarray, np.ndarray]


class Judge:
    """Judges the arms of a comparison by the metrics and test predictions of their runs.

    Args:
        arms: baselines and distilled arms.
        finished: their runs.
        failed: error messages of failed arms.
        task: task of the data.
        teacher_score: the teacher's main metric on the test split; None if it is unknown.
        teacher_correct: which test examples the teacher classifies correctly, in the order of their index.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        finished: RunsOfArms,
        failed: Mapping[str, str],
        *,
        task: str,
        teacher_score: float | None = None,
        teacher_correct: np.ndarray | None = None,
    ) -> None:
        self.arms = arms
        self.finished = finished
        self.failed = failed
        self.metric = MAIN_METRIC[task]
        self._sign = -1 if self.metric in LOWER_IS_BETTER else 1
        # McNemar's test and the paired intervals need one class per example.
        self._is_paired = task == "classification"
        self._teacher_score = teacher_score
        self._teacher_correct = teacher_correct
        self._correct: dict[Path, np.ndarray] = {}

    def judge_students(self) -> tuple[ComparedStudent, ...]:
        """The results of every arm; the gains of all distilled arms are tested together (Holm)."""
        gains = {arm.name: self._measure_gain(arm, ALPHA) for arm in self.arms if arm.baseline is not None}
        p_values = {name: gain.p for name, gain in gains.items() if gain is not None and gain.p is not None}
        by_name = {arm.name: arm for arm in self.arms}
        for name, level in zip(p_values, holm_levels(list(p_values.values())), strict=True):
            gains[name] = self._measure_gain(by_name[name], level)
        return tuple(self._judge_arm(arm, gains.get(arm.name)) for arm in self.arms)

    def measure_disagreement(self) -> float | None:
        """The mean fraction of test examples that exactly one model of a pair classifies correctly."""
        if not self._is_paired:
            return None
        fractions = [self._pair(arm, seed).disagreement for arm in self.arms for seed in self._paired_seeds(arm)]
        return fmean(fractions) if fractions else None

    def pick_model(self) -> Path | None:
        """The best model of all arms and seeds on the validation split."""
        runs = [run for arm in self.arms for run in self.list_runs(arm) if run.validation is not None]
        return max(runs, key=self._rank).model if runs else None

    def list_runs(self, arm: Arm) -> tuple[ComparedRun, ...]:
        """The finished runs of an arm, by seed."""
        rows = []
        for seed, run in sorted(self.finished.get(arm.name, {}).items()):
            document = run.to_json()
            test, validation = document["test"], document["validation"]
            rows.append(
                ComparedRun(
                    seed=seed,
                    model=run.model_path,
                    score=float(test[self.metric]),
                    accuracy=test["accuracy"],
                    validation=validation.get(self.metric),
                    validation_loss=validation.get("loss"),
                    at_chance=test.get("at_chance"),
                )
            )
        return tuple(rows)

    def _rank(self, run: ComparedRun) -> tuple[float, float]:
        """The validation metric, then the loss, as during training."""
        loss = math.inf if run.validation_loss is None else run.validation_loss
        return self._sign * (run.validation or 0.0), -loss

    def _paired_seeds(self, arm: Arm) -> list[int]:
        """The seeds for which both the arm and its baseline have a finished run."""
        if arm.baseline is None:
            return []
        return sorted(set(self.finished[arm.name]) & set(self.finished[arm.baseline]))

    def _judge_arm(self, arm: Arm, gain: MeasuredGain | None) -> ComparedStudent:
        rows = self.list_runs(arm)
        status = f"failed: {self.failed[arm.name]}" if arm.name in self.failed else "finished"
        student = ComparedStudent(arm.name, status, baseline=arm.baseline, runs=rows)
        if not rows:
            return student
        documents = [run.to_json() for run in self.finished[arm.name].values()]
        scores = [run.score for run in rows]
        accuracies = [run.accuracy for run in rows if run.accuracy is not None]
        student = replace(
            student,
            mean=fmean(scores),
            sd=stdev(scores) if len(scores) > 1 else None,
            accuracy=fmean(accuracies) if accuracies else None,
            accuracy_sd=stdev(accuracies) if len(accuracies) > 1 else None,
            test=_average_metrics([document["test"] for document in documents]),
            parameters=documents[0]["parameters"],
            bytes=documents[0]["bytes"],
        )
        if arm.baseline is None:
            return replace(student, teacher_gap=self._measure_gap(arm.name, sorted(self.finished[arm.name])))
        teachers = [document.get("teacher") or {} for document in documents]
        agreements = [teacher["agreement"] for teacher in teachers if teacher.get("agreement") is not None]
        pairs = tuple(self._record_pair(arm, seed) for seed in self._paired_seeds(arm)) if self._is_paired else ()
        best_seed = max(rows, key=self._rank).seed
        return replace(
            student,
            gain=gain,
            gap_recovered=self._measure_recovery(arm, gain),
            pairs=pairs,
            mcnemar_p=next((pair.p for pair in pairs if pair.seed == best_seed), None),
            mcnemar_seed=best_seed if pairs else None,
            verdict=None if gain is None else _decide_verdict(gain),
            agreement=fmean(agreements) if agreements else None,
        )

    def _measure_gain(self, arm: Arm, alpha: float) -> MeasuredGain | None:
        """The gain over the baseline; None without a pair."""
        assert arm.baseline is not None
        ours, theirs = self.finished[arm.name], self.finished[arm.baseline]
        seeds = self._paired_seeds(arm)
        if not seeds:
            return None
        scores = [(self._score(ours[seed]), self._score(theirs[seed])) for seed in seeds]
        pairs = [self._read_pair(arm, seed) for seed in seeds] if self._is_paired else None
        return self._estimate(scores, pairs, alpha)

    def _measure_gap(self, baseline: str, seeds: Sequence[int]) -> MeasuredGain | None:
        """How much better the teacher is than a baseline; None without a teacher or a run."""
        runs = [self.finished[baseline][seed] for seed in seeds]
        if self._teacher_score is None or not runs:
            return None
        scores = [(self._teacher_score, self._score(run)) for run in runs]
        pairs = None
        if self._teacher_correct is not None and self._is_paired:
            pairs = [(self._teacher_correct, self._read_correct(run.run)) for run in runs]
        return self._estimate(scores, pairs, ALPHA)

    def _estimate(
        self, scores: Sequence[tuple[float, float]], pairs: Sequence[_CorrectPair] | None, alpha: float
    ) -> MeasuredGain:
        """The mean gain of the first score over the second, with an interval over repeats or over test examples.

        Args:
            scores: for each seed.
            pairs: for each seed; None if predictions cannot be paired.
            alpha: fraction of intervals that may miss the true gain.
        """
        # Rounded, so that the difference of equal scores is 0 and not 1e-18.
        differences = [round(self._sign * (ours - theirs), 12) for ours, theirs in scores]
        if len(differences) > 1:
            sampling = 0.0
            if pairs is not None:
                sampling = _standard_error(
                    np.mean([ours.astype(float) - theirs for ours, theirs in pairs], axis=0)
                )
            gain = estimate_gain(differences, sampling=sampling, alpha=alpha)
            return MeasuredGain(
                mean=gain.mean, low=gain.low, high=gain.high, p=gain.p, level=1 - alpha, over="repeats"
            )
        if pairs is None:
            return MeasuredGain(mean=differences[0], low=None, high=None, p=None, level=None, over="examples")
        decisions = _count_decisions(*pairs[0])
        low, high = decisions.interval(alpha)
        return MeasuredGain(
            mean=differences[0], low=low, high=high, p=decisions.mcnemar(), level=1 - alpha, over="examples"
        )

    def _measure_recovery(self, arm: Arm, gain: MeasuredGain | None) -> float | None:
        """The fraction of the gap between teacher and baseline that the gain closes; None if the gap is not
        significant."""
        if gain is None or arm.baseline is None:
            return None
        gap = self._measure_gap(arm.baseline, self._paired_seeds(arm))
        return gain.mean / gap.mean if gap is not None and gap.low is not None and gap.low > 0 else None

    def _score(self, run: RunResult | FinishedRun) -> float:
        return float(run.to_json()["test"][self.metric])

    def _record_pair(self, arm: Arm, seed: int) -> PairedRun:
        pair = self._pair(arm, seed)
        low, high = pair.interval()
        return PairedRun(
            seed=seed,
            gained=pair.wins,
            lost=pair.losses,
            difference=pair.difference,
            low=low,
            high=high,
            p=pair.mcnemar(),
        )

    def _pair(self, arm: Arm, seed: int) -> PairedDecisions:
        return _count_decisions(*self._read_pair(arm, seed))

    def _read_pair(self, arm: Arm, seed: int) -> _CorrectPair:
        assert arm.baseline is not None
        ours, theirs = self.finished[arm.name][seed], self.finished[arm.baseline][seed]
        return self._read_correct(ours.run), self._read_correct(theirs.run)

    def _read_correct(self, run: Path) -> np.ndarray:
        """Which test examples a run classifies correctly, in the order of their index; each file is read once."""
        if run not in self._correct:
            path = run / PREDICTIONS_FILE
            try:
                with np.load(path, allow_pickle=False) as file:
                    order = np.argsort(file["index"], kind="stable")
                    self._correct[run] = (file["logits"].argmax(-1) == file["labels"])[order]
            except (OSError, ValueError, KeyError) as error:
                raise StorageError(
                    f"{path}: cannot read the predictions of this run: {error}",
                    hint="train the run again with --overwrite",
                ) from None
        return self._correct[run]


def _count_decisions(ours: np.ndarray, theirs: np.ndarray) -> PairedDecisions:
    """Wins and losses of the first model against the second."""
    return PairedDecisions(len(ours), wins=int((ours & ~theirs).sum()), losses=int((theirs & ~ours).sum()))


def _average_metrics(tests: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """The means of all metrics that every run has on the test split."""
    means = {}
    for name in tests[0]:
        values = [value for test in tests if isinstance(value := test.get(name), float)]
        if len(values) == len(tests):
            means[name] = fmean(values)
    return means


def _standard_error(differences: np.ndarray) -> float:
    """The standard error of the mean over examples."""
    return float(differences.std(ddof=1) / math.sqrt(len(differences))) if len(differences) > 1 else 0.0


def _decide_verdict(gain: MeasuredGain) -> str:
    if gain.low is None or gain.high is None:
        return "inconclusive"
    return decide_verdict(gain.low, gain.high)
