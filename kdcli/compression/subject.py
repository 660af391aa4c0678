"""What is compressed: the data with all its splits, and the opened teacher with its outputs on them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from kdcli.compression.defaults import add_augmentation
from kdcli.compression.metric import IMBALANCE, PairedMetric, choose_metric
from kdcli.compression.request import BUDGET_SECONDS, CompressRequest, check_fraction
from kdcli.compression.schedule import FEWEST_EXAMPLES
from kdcli.data.dataset import Dataset, fill_outputs
from kdcli.data.examples import Examples
from kdcli.data.order_and_splits import limit_positions
from kdcli.errors import KdError, ModelError, UsageError
from kdcli.evaluation.chance import refuse_teacher_at_chance
from kdcli.evaluation.gates import check_gate_metrics
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES
from kdcli.evaluation.statistics import smallest_visible_gain
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.prediction import Predictor
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.open_teachers import open_teachers
from kdcli.setup.request import Request
from kdcli.setup.run_location import open_data
from kdcli.setup.shrunk_student import rebuild_layers, sample_calibration
from kdcli.teacher.teacher_logits import compute_member_logits, mix_logits

# With fewer validation examples more are held back, up to the fraction.
FEW_EXAMPLES, MOST_VALIDATION = 500, 0.25
TEST_FRACTION = 0.1
# Examples on which the teacher is timed; its seconds for the ranking of channels, and the fewest examples for it.
_TIMED_EXAMPLES, _CALIBRATION_SECONDS, _FEWEST_CALIBRATION = 16, 20.0, 64
# The fraction of examples on which a small student and its teacher differ, before it is known.
_DISAGREEMENT = 0.06


@dataclass(frozen=True)
class SearchSubject:
    """The opened data and teacher of a search.

    Args:
        request: with every setting of the data resolved.
        dataset: its splits; the test split is read only through `test_metric`.
        teachers: the teacher, or the members of an ensemble.
        network: the first of them that can be shrunk; None if none can.
        findings: notes for the plan.
        metric: the metric on the validation split.
        chose_augmentation: whether the augmentation was chosen here, not by a recipe or an option.
        teacher_seconds: of the teachers for one example.
    """

    request: Request
    dataset: Dataset
    teachers: tuple[OpenedModel, ...]
    network: KerasNetwork | None
    findings: tuple[str, ...]
    metric: PairedMetric
    chose_augmentation: bool = False
    teacher_seconds: float = 0.0

    @property
    def validation(self) -> Examples:
        """The split on which everything is decided."""
        assert self.dataset.validation is not None
        return self.dataset.validation

    @property
    def is_validation_split_off(self) -> bool:
        """Whether the validation split was split off the training split."""
        return _is_split_off(self.dataset)

    @property
    def first(self) -> Network:
        """The first teacher."""
        network: Network = self.teachers[0].network
        return network

    @property
    def parameters(self) -> int | None:
        """The number of parameters of all teachers; None if one is unknown."""
        counts = [one.network.parameters for one in self.teachers]
        return None if None in counts else sum(counts)

    @cached_property
    def calibration(self) -> Examples:
        """The training examples that rank channels and calibrate files; fewer for a slow teacher."""
        examples = sample_calibration(self.dataset, seed=self.request.recipe.data_seed)
        affordable = int(_CALIBRATION_SECONDS / max(self.teacher_seconds, 1e-9))
        if affordable >= len(examples):
            return examples
        seed, count = self.request.recipe.data_seed, max(_FEWEST_CALIBRATION, affordable)
        return examples.subset(limit_positions(examples.all_labels(), len(examples), limit=count, seed=seed))

    @cached_property
    def timed_examples(self) -> dict[str, np.ndarray]:
        """The raw examples on which latency is measured."""
        return self.calibration.take(np.arange(min(POOL_EXAMPLES, len(self.calibration))))

    @cached_property
    def test_metric(self) -> PairedMetric | None:
        """The metric on the test split; None if there is no test split."""
        if self.dataset.test is None:
            return None
        return self.metric_on(self.dataset.test)

    def metric_on(self, examples: Examples) -> PairedMetric:
        """The metric on a split, with the teacher's outputs for it."""
        members = compute_member_logits(self.request, self.dataset, self.teachers, examples)
        logits = mix_logits(self.request, self.teachers, members)
        assert logits is not None
        return replace(self.metric, labels=examples.all_labels(), teacher=self.metric.reduce(logits))


def open_subject(compress: CompressRequest) -> SearchSubject:
    """Open the data, set a test split aside where there is none, and open and measure the teacher.

    Raises:
        DataError: the data cannot be used.
        ModelError: the teacher cannot be used, or is at chance level.
        UsageError: the metric or a gate cannot be measured on this data.
    """
    request, findings = resolve_data(compress.request)
    dataset = open_data(request, with_notes=True)
    labelled = dataset.labelled
    name = choose_metric(compress.metric, dataset.task, labelled=labelled)
    check_fraction(compress.targets.max_drop, name)
    check_gate_metrics("compress", compress.gates, dataset.task, labelled=labelled)
    teachers = open_teachers(request, dataset)
    for one in teachers:
        if isinstance(one.network, RecordedNetwork):
            raise ModelError(
                f"{one.path}: recorded outputs cannot be compressed: they are not a model",
                hint="kd compress MODEL.keras --data D",
            )
    dataset = fill_outputs(dataset, teachers[0].network.outputs)
    if dataset.validation is None:
        raise UsageError(
            "kd compress needs validation examples, and there are none",
            hint="--set data.validation=0.1",
        )
    network, why_not = _find_shrinkable(request, teachers)
    before = request.recipe.data.augment
    request, augmentation = add_augmentation(request, dataset, network)
    empty = PairedMetric(name, dataset.task, None, np.zeros(0))
    subject = SearchSubject(
        request,
        dataset,
        teachers,
        network,
        findings=(),
        metric=empty,
        chose_augmentation=request.recipe.data.augment != before,
        teacher_seconds=sum(_time_teacher(one.network, dataset) for one in teachers),
    )
    _refuse_slow_teacher(subject, compress)
    metric = subject.metric_on(dataset.validation)
    labels = metric.labels
    if dataset.task == "classification" and labels is not None and request.preflight:
        refuse_teacher_at_chance(metric.teacher, labels, name=teachers[0].network.name)
    findings = [
        *findings,
        *why_not,
        *augmentation,
        *_describe_data(dataset, metric, max_drop=compress.targets.max_drop),
    ]
    findings += _compare_gates(compress, metric)
    return replace(subject, metric=metric, findings=tuple(findings))


def _time_teacher(network: Network, dataset: Dataset) -> float:
    """Seconds of a teacher for one example, after compiling."""
    predict, count = Predictor(network, batch_size=_TIMED_EXAMPLES), min(_TIMED_EXAMPLES, len(dataset.train))
    predict(dataset.train.take, count)
    since = time.perf_counter()
    predict(dataset.train.take, count)
    return (time.perf_counter() - since) / count


def _refuse_slow_teacher(subject: SearchSubject, compress: CompressRequest) -> None:
    """Refuse a budget in which the teacher alone cannot answer for the smallest subset of the examples.

    Raises:
        UsageError: with the time that is needed.
    """
    dataset, budget = subject.dataset, compress.budget or BUDGET_SECONDS
    count = min(FEWEST_EXAMPLES, len(dataset.train)) + len(dataset.validation or ()) + len(dataset.test or ())
    seconds = count * subject.teacher_seconds
    if seconds > budget:
        minutes = math.ceil(3 * seconds / 60)
        raise UsageError(
            f"--budget: the teacher alone takes {seconds / 60:.1f} minutes for {count:,} examples, and "
            f"{budget / 60:.1f} minutes are planned for everything",
            hint=f"--budget {minutes}m",
        )


def resolve_data(request: Request) -> tuple[Request, list[str]]:
    """Resolve `data.test` and `data.validation`, from the data itself.

    Returns:
        The request, and notes on what was resolved.
    """
    recipe, findings = request.recipe, []
    update: dict[str, Any] = {}
    dataset = open_data(request)
    if recipe.data.test == "auto":
        update["test"] = 0.0 if dataset.test is not None else TEST_FRACTION
        if dataset.test is None:
            findings.append(
                f"{dataset.name} has no test split: {TEST_FRACTION:.0%} of it is set aside first; the teacher may "
                "have seen these examples, so its metric may be too high"
            )
    is_default = request.origins.of(("data", "validation")) == "default"
    count = len(dataset.train) + len(dataset.validation or ())
    held_back = len(dataset.validation or ())
    if 0 < held_back < FEW_EXAMPLES and not (is_default and _is_split_off(dataset)):
        findings.append(
            f"{held_back:,} validation examples are few: candidates are compared with {FEW_EXAMPLES} or more"
        )
    if is_default and recipe.data.validation and held_back < FEW_EXAMPLES and _is_split_off(dataset):
        fraction = min(MOST_VALIDATION, FEW_EXAMPLES / max(count, 1))
        if fraction > recipe.data.validation:
            update["validation"] = round(fraction, 4)
            findings.append(
                f"{held_back:,} validation examples are too few: the validation split is increased to "
                f"{fraction:.0%} of the training examples"
            )
    data = recipe.data.model_copy(update=update)
    return replace(request, recipe=recipe.model_copy(update={"data": data})), findings


def _is_split_off(dataset: Dataset) -> bool:
    return dataset.validation is not None and dataset.validation.inputs is dataset.train.inputs


def _find_shrinkable(
    request: Request, teachers: Sequence[OpenedModel]
) -> tuple[KerasNetwork | None, tuple[str, ...]]:
    """The first teacher with Keras layers, and why there is none."""
    reasons = []
    for one in teachers:
        file = None if one.path is None else str(one.path)
        try:
            return (
                rebuild_layers(one.network, file, trust=request.trust, on_event=request.context.on_event),
                (),
            )
        except KdError as error:
            reasons.append(error.message)
    return None, (f"the teacher cannot be shrunk: {reasons[0]}",)


def _compare_gates(compress: CompressRequest, metric: PairedMetric) -> list[str]:
    """Notes on bounds that the teacher itself misses."""
    value = metric.measure_teacher()
    return [
        f"the teacher itself has {metric.name} {value:.4f} on the validation split, outside of {gate.text}"
        for gate in compress.gates
        if gate.metric == metric.name and not gate.holds(value)
    ]


def _describe_data(dataset: Dataset, metric: PairedMetric, *, max_drop: float | None) -> list[str]:
    """What the data can show, and which metric may suit it better."""
    texts = []
    if not dataset.labelled:
        texts.append(
            "the data has no labels: the metric is agreement with the teacher, valid only for examples like these"
        )
    if dataset.task == "classification" and metric.name == "accuracy" and dataset.train.labels is not None:
        counts = np.bincount(dataset.train.labels[dataset.train.rows])
        counts = counts[counts > 0]
        if len(counts) > 1 and counts.max() > IMBALANCE * counts.min():
            texts.append(
                f"the largest class has {counts.max() / counts.min():.0f} times the examples of the smallest: "
                "--metric balanced_accuracy weights all classes equally"
            )
    test = dataset.test
    if test is not None and metric.name in ("accuracy", "agreement"):
        visible = smallest_visible_gain(len(test), _DISAGREEMENT)
        if visible is not None:
            text = f"{len(test):,} test examples can show a difference of {visible:.3f} or more"
            if max_drop is not None and max_drop < visible:
                text += f"; the target of {max_drop:g} is smaller"
            texts.append(text)
    return texts
