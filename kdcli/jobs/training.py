"""Training one model in a run directory: the part that train-teacher and distill share."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset, compute_class_weights
from kdcli.data.examples import Examples
from kdcli.data.feed import Feed
from kdcli.data.views import Views
from kdcli.distillation.objective import Objective
from kdcli.distillation.targets import Targets
from kdcli.distillation.terms import Term
from kdcli.errors import UsageError
from kdcli.evaluation.quality import MAIN_METRIC, measure_quality
from kdcli.events import OnEvent
from kdcli.models.keras.model import save_to_bytes
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.precision import compute_in
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS, Predictor
from kdcli.models.saved_model.network import GraphNetwork
from kdcli.recipe.sections import Recipe
from kdcli.recipe.training import TrainSection
from kdcli.runs import writer
from kdcli.runs.directory import Run
from kdcli.training.checkpoint import Checkpoints
from kdcli.training.loop import Trainer, steps_per_epoch
from kdcli.training.replicas import SINGLE_WORKER, Workers, find_batch_norms, synchronize_batch_norm
from kdcli.training.state import TrainingResult
from kdcli.training.step import Stepper, make_schedule


@dataclass
class Clock:
    """Seconds spent, by stage."""

    began: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    def lap(self, stage: str, since: float) -> None:
        """Add the time since a moment to a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - since

    def took(self, stage: str, seconds: float, since: float) -> None:
        """Give a stage its seconds; what lies before this process counts to the total too."""
        self.stages[stage] = seconds
        self.began -= max(0.0, seconds - (time.perf_counter() - since))

    def to_json(self) -> dict[str, float]:
        """`seconds` of the summary."""
        total = time.perf_counter() - self.began
        named = {name: self.stages.get(name, 0.0) for name in ("data", "teacher", "training", "evaluation")}
        return {name: round(value, 3) for name, value in {**named, "total": total}.items()}


def with_epochs_and_steps(train: TrainSection, examples: int) -> TrainSection:
    """The section with both `epochs` and `steps` filled in, for the loop."""
    each = steps_per_epoch(examples, train.batch_size)
    steps = train.steps or (train.epochs or 10) * each
    return train.model_copy(update={"epochs": -(-steps // each), "steps": steps})


def monitored_metric(train: TrainSection, dataset: Dataset, *, with_teacher: bool) -> str:
    """The validation figure that selects the best weights.

    Raises:
        UsageError: the task has no such figure.
    """
    known = [MAIN_METRIC[dataset.task], "loss", *(["mae"] if dataset.task == "regression" else [])]
    known += ["accuracy"] if dataset.task in ("multilabel", "segmentation") else []
    if not dataset.labelled:
        known = ["agreement"] if dataset.task != "regression" else []
    elif with_teacher and dataset.task != "regression":
        known.append("agreement")
    wanted = train.early_stopping.monitor if train.early_stopping else None
    if wanted is not None and wanted not in known:
        raise UsageError(
            f"train.early_stopping.monitor: {wanted} is not measured for this data; known: {', '.join(known)}"
        )
    return wanted or (known[0] if known else "loss")


@dataclass
class Fit:
    """Everything that training needs, put together once."""

    recipe: Recipe
    train: TrainSection
    dataset: Dataset
    views: Views
    network: Network
    terms: Sequence[Term]
    strategy: Any
    monitor: str
    on_event: OnEvent
    stop: Callable[[], int | None]
    teacher_validation: np.ndarray | None = None
    workers: Workers = SINGLE_WORKER

    def stepper(self, targets: Targets | None) -> Stepper:
        """The compiled step, with its objective and a built optimizer."""
        train, replicas = self.train, self.strategy.num_replicas_in_sync
        objective = Objective(
            self.terms,
            student=self.network,
            targets=targets,
            class_weights=compute_class_weights(self.dataset, self.recipe.data.class_weight),
            label_smoothing=train.label_smoothing,
            replicas=replicas,
            void=self.dataset.has_void,
        )
        with self.strategy.scope():
            rate = make_schedule(train.optimizer.learning_rate, train.schedule, train.steps or 1)
            optimizer = train.optimizer.build(rate)
            optimizer.build(objective.trainable_variables)
        batch = min(train.batch_size, len(self.dataset.train))
        return Stepper(
            objective,
            Feed(self.dataset.train, self.views, classes=self.dataset.outputs),
            optimizer,
            batch_size=batch,
            total_steps=train.steps or 1,
            gradient_clip=train.gradient_clip,
            strategy=self.strategy,
            jit=train.jit == "on",
            batch_slice=self.workers.slice_batch(batch),
        )

    def run(self, run: Run, targets: Targets | None) -> TrainingResult:
        """Train in the run's directory, from its newest checkpoint if there is one."""
        checkpoint = self.train.checkpoint
        several = self.strategy.num_replicas_in_sync > 1
        layers = find_batch_norms(self.network) if self.train.synchronized and several else []
        with compute_in(self.network, self.train.precision), synchronize_batch_norm(layers):
            stepper = self.stepper(targets)
            trainer = Trainer(
                stepper,
                model_variables=self.network.variables,
                part_variables=[variable for term in self.terms for variable in term.variables],
                train=self.train,
                validate=self._validator(),
                monitor=self.monitor,
                checkpoints=Checkpoints(run.checkpoint, every=checkpoint.every, keep=checkpoint.keep),
                stop=self.stop,
                on_event=self.on_event,
                on_epoch=lambda history: write_metrics(run, history) if self.workers.is_chief else None,
                workers=self.workers,
            )
            return trainer.run()

    def _validator(self) -> Callable[[], dict[str, float]] | None:
        split = self.dataset.validation
        if split is None:
            return None
        ask = Predictor(self.network)

        def validate() -> dict[str, float]:
            logits = ask(split.take, len(split))[LOGITS]
            quality = measure_quality(
                logits, split.all_labels(), task=self.dataset.task, teacher=self.teacher_validation
            )
            names = dict.fromkeys([self.monitor, MAIN_METRIC[self.dataset.task], "loss", "agreement"])
            figures = {name: quality.metric(name) for name in names}
            return {name: value for name, value in figures.items() if value is not None}

        return validate


def write_metrics(run: Run, history: list[dict[str, Any]]) -> None:
    """`metrics.jsonl`: one line an epoch."""
    writer.write_text(run.metrics, "".join(json.dumps(line) + "\n" for line in history))


def write_predictions(run: Run, logits: np.ndarray, split: Examples, *, task: str) -> None:
    """`predictions.npz`: what the test figures were measured on; classes only for dense tasks."""
    answers = {"classes": logits.argmax(-1)} if task == "segmentation" else {"logits": logits}
    labels = split.all_labels()
    if labels is not None:
        answers["labels"] = labels
    file = io.BytesIO()
    np.savez(file, index=split.rows, **answers)
    writer.write_bytes(run.predictions, file.getvalue())


def write_model(run: Run, role: str, network: KerasNetwork | GraphNetwork) -> Path:
    """Save what was trained, atomically, as what it was opened from: a `.keras` file or a SavedModel folder."""
    path = run.path_of_model(role, folder=isinstance(network, GraphNetwork))
    needed = 4 * (network.parameters or 0) + 1_000_000
    try:
        with writer.scratch_folder(3 * needed) as scratch:
            if isinstance(network, KerasNetwork):
                content = save_to_bytes(network.model, scratch)
            else:
                network.save(scratch / path.name)
                writer.remove(path)
                writer.copy_folder(scratch / path.name, path)
                return path
    except OSError as error:
        raise writer.storage_error(path, error, needed=needed) from error
    writer.write_bytes(path, content)
    return path
