"""From the runs of a comparison to figures and a verdict."""

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

RunsOfArms = Mapping[str, Mapping[int, RunResult | FinishedRun]]


class Judge:
    """Reads each run's figures and its decisions on the test split, once.

    Args:
        arms: twins and distilled arms.
        finished: their runs, by arm and seed.
        failed: what went wrong, by arm.
        task: of the data.
    """

    def __init__(self, arms: Sequence[Arm], finished: RunsOfArms, failed: Mapping[str, str], *, task: str) -> None:
        self.arms = arms
        self.finished = finished
        self.failed = failed
        self.metric = MAIN_METRIC[task]
        self.task = task
        self._decisions: dict[Path, np.ndarray] = {}
        self._teacher: tuple[float | None, np.ndarray | None] = (None, None)

    def students(
        self, teacher_score: float | None, teacher_right: np.ndarray | None = None
    ) -> tuple[ComparedStudent, ...]:
        """Every arm with its figures; the gains of all distilled arms are judged together (Holm).

        Args:
            teacher_score: the main figure on the test split.
            teacher_right: which test examples the teacher decides rightly, in the order of their index.
        """
        self._teacher = (teacher_score, teacher_right)
        raw = {arm.name: self._gain(arm, ALPHA) for arm in self.arms if arm.baseline is not None}
        tested = [name for name, gain in raw.items() if gain is not None and gain.p is not None]
        levels = holm_levels([p for name in tested if (gain := raw[name]) and (p := gain.p) is not None])
        gains = dict(raw)
        by_name = {arm.name: arm for arm in self.arms}
        for name, level in zip(tested, levels, strict=True):
            gains[name] = self._gain(by_name[name], level)
        return tuple(self._student(arm, gains.get(arm.name)) for arm in self.arms)

    def disagreement(self) -> float | None:
        """The share of test examples that one model of a pair alone decides rightly, over all pairs."""
        shares = [self._paired(arm, seed).disagreement for arm, seed in self._pairs() if self._decides]
        return fmean(shares) if shares else None

    def best(self) -> Path | None:
        """The model that is best on validation, of all arms and seeds; the test split has no say."""
        runs = [run for arm in self.arms for run in self.runs(arm) if run.validation is not None]
        if not runs:
            return None
        return max(runs, key=self._rank).model

    def runs(self, arm: Arm) -> tuple[ComparedRun, ...]:
        """The finished runs of an arm, by seed."""
        rows = []
        for seed, run in sorted(self.finished.get(arm.name, {}).items()):
            document = run.to_json()
            test = document["test"]
            rows.append(
                ComparedRun(
                    seed,
                    run.model_path,
                    float(test[self.metric]),
                    test["accuracy"],
                    document["validation"].get(self.metric),
                    document["validation"].get("loss"),
                    test.get("at_chance"),
                )
            )
        return tuple(rows)

    def _rank(self, run: ComparedRun) -> tuple[float, float]:
        """By the figure on validation; between equal ones the loss decides, as in training."""
        loss = math.inf if run.validation_loss is None else run.validation_loss
        return self._sign * (run.validation or 0.0), -loss

    @property
    def _sign(self) -> int:
        return -1 if self.metric in LOWER_IS_BETTER else 1

    @property
    def _decides(self) -> bool:
        return self.task == "classification"

    def _pairs(self) -> list[tuple[Arm, int]]:
        return [
            (arm, seed)
            for arm in self.arms
            if arm.baseline is not None
            for seed in sorted(self.finished[arm.name])
            if seed in self.finished[arm.baseline]
        ]

    def _gain(self, arm: Arm, alpha: float) -> MeasuredGain | None:
        """The gain over the baseline with an interval that misses in the share `alpha`; None without a pair."""
        assert arm.baseline is not None
        ours, theirs = self.finished[arm.name], self.finished[arm.baseline]
        seeds = sorted(set(ours) & set(theirs))
        if not seeds:
            return None
        # Rounded: the difference of two equal shares is nothing, not 1e-18.
        scores = [(self._score(ours[seed]), self._score(theirs[seed])) for seed in seeds]
        differences = [round(self._sign * (mine - other), 12) for mine, other in scores]
        if len(seeds) == 1:
            if not self._decides:
                return MeasuredGain(differences[0], None, None, None, None, "examples")
            pair = self._paired(arm, seeds[0])
            return MeasuredGain(differences[0], *pair.interval(alpha), pair.mcnemar(), 1 - alpha, "examples")
        sampling = self._sampling(arm, seeds) if self._decides else 0.0
        gain = estimate_gain(differences, sampling=sampling, alpha=alpha)
        return MeasuredGain(gain.mean, gain.low, gain.high, gain.p, 1 - alpha, "repeats")

    def _student(self, arm: Arm, gain: MeasuredGain | None) -> ComparedStudent:
        rows = self.runs(arm)
        status = f"failed: {self.failed[arm.name]}" if arm.name in self.failed else "finished"
        student = ComparedStudent(arm.name, status, arm.baseline, rows)
        if not rows:
            return student
        first = next(iter(self.finished[arm.name].values())).to_json()
        scores = [run.score for run in rows]
        accuracies = [run.accuracy for run in rows if run.accuracy is not None]
        student = replace(
            student,
            mean=fmean(scores),
            sd=stdev(scores) if len(scores) > 1 else None,
            accuracy=fmean(accuracies) if accuracies else None,
            accuracy_sd=stdev(accuracies) if len(accuracies) > 1 else None,
            test=self._means(arm),
            parameters=first["parameters"],
            bytes=first["bytes"],
        )
        if arm.baseline is None:
            return replace(student, teacher_gap=self._gap(arm.name, sorted(self.finished[arm.name])))
        recorded = [run.to_json().get("teacher") or {} for run in self.finished[arm.name].values()]
        known = [value for record in recorded if (value := record.get("agreement")) is not None]
        pairs = tuple(self._pair(arm, seed) for at, seed in self._pairs() if at is arm) if self._decides else ()
        shipped = max(rows, key=self._rank).seed
        return replace(
            student,
            gain=gain,
            gap_recovered=self._recovered(arm, gain),
            pairs=pairs,
            mcnemar_p=next((pair.p for pair in pairs if pair.seed == shipped), None),
            mcnemar_seed=shipped if pairs else None,
            verdict=None if gain is None else _verdict(gain),
            agreement=fmean(known) if known else None,
        )

    def _means(self, arm: Arm) -> dict[str, float]:
        """Every figure that all runs of an arm have on the test split, as the mean over them."""
        tests = [run.to_json()["test"] for run in self.finished[arm.name].values()]
        names = [name for name in tests[0] if all(isinstance(test.get(name), float) for test in tests)]
        return {name: fmean(test[name] for test in tests) for name in names}

    def _recovered(self, arm: Arm, gain: MeasuredGain | None) -> float | None:
        """The share of the gap between teacher and baseline that the gain closes; None where there is no gap
        beyond the noise."""
        if gain is None or arm.baseline is None:
            return None
        baselines = self.finished[arm.baseline]
        gap = self._gap(arm.baseline, [seed for seed in sorted(self.finished[arm.name]) if seed in baselines])
        return gain.mean / gap.mean if gap is not None and gap.low is not None and gap.low > 0 else None

    def _gap(self, baseline: str, seeds: Sequence[int]) -> MeasuredGain | None:
        """How much better the teacher is than a baseline, with an interval that covers seeds and test examples."""
        score, right = self._teacher
        runs = [self.finished[baseline][seed] for seed in seeds]
        if score is None or not runs:
            return None
        differences = [round(self._sign * (score - self._score(run)), 12) for run in runs]
        if right is None or not self._decides:
            if len(runs) == 1:
                return MeasuredGain(differences[0], None, None, None, None, "examples")
            gap = estimate_gain(differences, sampling=0.0)
        else:
            won = [right.astype(float) - self._right(run.run) for run in runs]
            if len(runs) == 1:
                pair = PairedDecisions(len(right), int((won[0] > 0).sum()), int((won[0] < 0).sum()))
                low, high = pair.interval()
                return MeasuredGain(differences[0], low, high, pair.mcnemar(), 1 - ALPHA, "examples")
            gap = estimate_gain(differences, sampling=_standard_error(np.mean(won, axis=0)))
        return MeasuredGain(gap.mean, gap.low, gap.high, gap.p, 1 - ALPHA, "repeats")

    def _score(self, run: RunResult | FinishedRun) -> float:
        return float(run.to_json()["test"][self.metric])

    def _pair(self, arm: Arm, seed: int) -> PairedRun:
        pair = self._paired(arm, seed)
        return PairedRun(seed, pair.gained, pair.lost, pair.difference, *pair.interval(), pair.mcnemar())

    def _paired(self, arm: Arm, seed: int) -> PairedDecisions:
        assert arm.baseline is not None
        ours = self._right(self.finished[arm.name][seed].run)
        theirs = self._right(self.finished[arm.baseline][seed].run)
        return PairedDecisions(len(ours), int((ours & ~theirs).sum()), int((theirs & ~ours).sum()))

    def _sampling(self, arm: Arm, seeds: Sequence[int]) -> float:
        """The standard error over the test examples of the mean difference of decisions."""
        assert arm.baseline is not None
        ours, theirs = self.finished[arm.name], self.finished[arm.baseline]
        pairs = [(self._right(ours[seed].run), self._right(theirs[seed].run)) for seed in seeds]
        return _standard_error(np.mean([mine.astype(float) - other for mine, other in pairs], axis=0))

    def _right(self, run: Path) -> np.ndarray:
        """Which test examples a run decides rightly, in the order of their index."""
        if run not in self._decisions:
            path = run / PREDICTIONS_FILE
            try:
                with np.load(path, allow_pickle=False) as file:
                    order = np.argsort(file["index"], kind="stable")
                    self._decisions[run] = (file["logits"].argmax(-1) == file["labels"])[order]
            except (OSError, ValueError, KeyError) as error:
                raise StorageError(
                    f"{path}: the decisions of this run cannot be read: {error}", hint="start it anew: --overwrite"
                ) from None
        return self._decisions[run]


def _standard_error(differences: np.ndarray) -> float:
    """Of the mean over examples."""
    return float(differences.std(ddof=1) / math.sqrt(len(differences))) if len(differences) > 1 else 0.0


def _verdict(gain: MeasuredGain) -> str:
    if gain.low is None or gain.high is None:
        return "inconclusive"
    return decide_verdict(gain.low, gain.high)
