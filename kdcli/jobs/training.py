"""Training of one model in a run directory: the compiled step, the loop, the files they write."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import compute_class_weights
from kdcli.data.examples import Examples
from kdcli.data.feed import Feed
from kdcli.distillation.objective import Objective
from kdcli.distillation.targets import Targets
from kdcli.evaluation.quality import MAIN_METRIC, measure_quality
from kdcli.jobs.job import Job
from kdcli.models.keras.model import save_to_bytes
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.precision import compute_in
from kdcli.models.prediction import LOGITS, Predictor
from kdcli.models.saved_model.network import FrozenNetwork
from kdcli.quantization.network import QuantizedNetwork
from kdcli.runs import writer
from kdcli.runs.directory import Run
from kdcli.training.checkpoint import Checkpoints
from kdcli.training.loop import Trainer
from kdcli.training.state import TrainingResult
from kdcli.training.step import Stepper, make_schedule
from kdcli.training.workers import find_batch_norms, synchronize_batch_norm


def make_stepper(job: Job, targets: Targets | None) -> Stepper:
    """Build the compiled step, with its objective and optimizer."""
    train, dataset, strategy = job.train, job.dataset, job.strategy
    objective = Objective(
        job.terms,
        student=job.trained.network,
        targets=targets,
        class_weights=compute_class_weights(dataset, job.request.recipe.data.class_weight),
        label_smoothing=train.label_smoothing,
        replicas=strategy.num_replicas_in_sync,
        void=dataset.has_void,
    )
    with strategy.scope():
        rate = make_schedule(train.optimizer.learning_rate, train.schedule, train.steps or 1)
        optimizer = train.optimizer.build(rate)
        optimizer.build(objective.trainable_variables)
    batch = min(train.batch_size, len(dataset.train))
    return Stepper(
        objective,
        Feed(dataset.train, job.views, classes=dataset.outputs),
        optimizer,
        batch_size=batch,
        total_steps=train.steps or 1,
        gradient_clip=train.gradient_clip,
        strategy=strategy,
        jit=train.jit == "on",
        batch_slice=job.request.context.workers.slice_batch(batch),
    )


def train_job(job: Job, run: Run, targets: Targets | None, *, until: int | None = None) -> TrainingResult:
    """Train in the run directory, from its newest checkpoint if there is one, to the end or to a step."""
    context, train, network = job.request.context, job.train, job.trained.network
    has_replicas = job.strategy.num_replicas_in_sync > 1
    layers = find_batch_norms(network) if train.synchronized and has_replicas else []
    workers, checkpoint = context.workers, train.checkpoint
    with compute_in(network, train.precision), synchronize_batch_norm(layers):
        trainer = Trainer(
            make_stepper(job, targets),
            model_variables=network.variables,
            part_variables=[variable for term in job.terms for variable in term.variables],
            train=train,
            validate=_make_validator(job),
            monitor=job.monitor,
            checkpoints=Checkpoints(run.checkpoint, every=checkpoint.every, keep=checkpoint.keep),
            stop=context.stop,
            on_event=context.on_event,
            on_epoch=lambda history: _write_metrics(run, history) if workers.is_chief else None,
            workers=workers,
        )
        return trainer.run(until=until)


def _make_validator(job: Job) -> Callable[[], dict[str, float]] | None:
    split, task = job.dataset.validation, job.dataset.task
    if split is None:
        return None
    predict = Predictor(job.trained.network)

    def validate() -> dict[str, float]:
        logits = predict(split.take, len(split))[LOGITS]
        quality = measure_quality(logits, split.all_labels(), task=task, teacher=job.teacher_validation)
        names = dict.fromkeys([job.monitor, MAIN_METRIC[task], "loss", "agreement"])
        metrics = {name: quality.metric(name) for name in names}
        return {name: value for name, value in metrics.items() if value is not None}

    return validate


def _write_metrics(run: Run, history: list[dict[str, Any]]) -> None:
    """Write `metrics.jsonl`: one line per epoch."""
    writer.write_text(run.metrics, "".join(json.dumps(line) + "\n" for line in history))


def write_test_predictions(run: Run, logits: np.ndarray, split: Examples, *, task: str) -> None:
    """Write `predictions.npz`: the outputs behind the test metrics; only classes for segmentation."""
    outputs = {"classes": logits.argmax(-1)} if task == "segmentation" else {"logits": logits}
    labels = split.all_labels()
    if labels is not None:
        outputs["labels"] = labels
    file = io.BytesIO()
    np.savez(file, index=split.rows, **outputs)
    writer.write_bytes(run.predictions, file.getvalue())


def write_model(run: Run, role: str, network: KerasNetwork | FrozenNetwork) -> Path:
    """Save the trained model atomically, in its own form: a `.keras` file or a SavedModel folder."""
    path = run.path_of_model(role, folder=isinstance(network, FrozenNetwork))
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
    if isinstance(network, QuantizedNetwork):
        writer.write_text(run.ranges, json.dumps(network.describe_ranges(), indent=2) + "\n")
    return path
