"""The training loop, the same for all kinds of training: epochs, checkpoints, selection on validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.order_and_splits import shuffle_positions
from kdcli.errors import Interrupted, TrainingError
from kdcli.events import EpochEnded, Note, OnEvent, Progress
from kdcli.models.variables import assign_values, copy_values, preserve_values
from kdcli.recipe.sections import LOWER_IS_BETTER, TrainSection
from kdcli.tensors import Variables
from kdcli.training.checkpoint import Checkpoints
from kdcli.training.state import TrainingResult, TrainingState, capture_state, restore_state
from kdcli.training.step import GRADIENT_NORM, TOTAL_LOSS, Stepper, learning_rate_at
from kdcli.training.workers import SINGLE_WORKER, Workers

# Target duration of a block, after which interruptions, log lines and checkpoints are handled.
BLOCK_SECONDS = 0.25


class Trainer:
    """Trains by example indices; all numbers follow from the seed, the data and the recipe.

    Args:
        stepper: the compiled step.
        model_variables: variables of the trained model; the best values are kept.
        part_variables: variables of the objective's parts.
        train: resolved `train` section, with `epochs` and `steps`.
        validate: returns the metrics on the validation split; None without one.
        monitor: the metric that selects the best epoch.
        checkpoints: where checkpoints are saved; None to save none.
        stop: called between blocks; returns the exit code (130, 143) to stop with, or None.
        on_event: called with progress events.
        on_epoch: called after each epoch with all lines of the log.
        workers: the workers that train together; the chief decides, validates and saves.
    """

    def __init__(
        self,
        stepper: Stepper,
        *,
        model_variables: Variables,
        part_variables: Variables,
        train: TrainSection,
        validate: Callable[[], dict[str, float]] | None,
        monitor: str,
        checkpoints: Checkpoints | None,
        stop: Callable[[], int | None],
        on_event: OnEvent,
        on_epoch: Callable[[list[dict[str, Any]]], None],
        workers: Workers = SINGLE_WORKER,
    ) -> None:
        self.stepper = stepper
        self.model_variables = model_variables
        self.part_variables = part_variables
        assert train.epochs is not None and train.steps is not None
        self.train = train
        self.epochs, self.steps = train.epochs, train.steps
        self.validate = validate
        self.monitor = monitor
        self.checkpoints = checkpoints
        self.stop = stop
        self.on_event = on_event
        self.on_epoch = on_epoch
        self.workers = workers
        self.examples = len(stepper.feed.examples)
        self.batch = min(train.batch_size, self.examples)
        self.epoch_steps = steps_per_epoch(self.examples, train.batch_size)
        self.state = TrainingState()
        self.best: list[np.ndarray] = []
        self._block = 1

    def run(self, *, until: int | None = None) -> TrainingResult:
        """Train from the start, or from the newest checkpoint.

        Args:
            until: step to pause at: the state is saved, and the model keeps its current weights. None trains to
                the end and puts the best weights into the model.

        Raises:
            TrainingError: a value is not finite; that step was not applied.
            Interrupted: `stop` returned an exit code; the state is saved.
        """
        self._restore()
        end = self.steps if until is None else min(until, self.steps)
        while not self.state.stopped and self.state.step < end:
            self._epoch(self.state.step // self.epoch_steps, end)
        if self.best and self._done():
            assign_values(self.model_variables, self.best)
        state = self.state
        trained = state.step * self.batch
        rate = trained / state.seconds if state.seconds else 0.0
        return TrainingResult(
            steps=state.step,
            epochs=len(state.history),
            best_epoch=state.best_epoch,
            history=state.history,
            seconds=state.seconds,
            examples_per_second=rate,
        )

    def _done(self) -> bool:
        return self.state.stopped or self.state.step >= self.steps

    def _epoch(self, epoch: int, pause: int) -> None:
        """Train to the end of an epoch, or to the step to pause at."""
        views = self.stepper.feed.views
        view = views.select_view(epoch)
        table = views.table(view)
        slot = view if views.count is not None else 0
        order = shuffle_positions(self.examples, seed=self.train.seed, epoch=epoch)
        order = order[: self.epoch_steps * self.batch].reshape(self.epoch_steps, self.batch)
        last = min((epoch + 1) * self.epoch_steps, self.steps)
        end = min(last, pause)
        started, begun = time.perf_counter(), self.state.step
        self.stepper.start(order[begun - epoch * self.epoch_steps :], table=table, slot=slot)
        while self.state.step < end:
            self._train_block(self._block_size(end - self.state.step), epoch)
            if self.state.step < end:
                self._pause()
        if end < last:
            self._pause(last=True)
            return
        rate = (self.state.step - begun) * self.batch / (time.perf_counter() - started)
        self._end_epoch(epoch, rate)
        self._pause(last=self._done() or self.state.step == pause)

    def _pause(self, *, last: bool = False) -> None:
        """Between blocks, save when the chief's clock requires it, and stop on any worker's signal; all alike."""
        due = self.checkpoints is not None and self.checkpoints.is_due(self.state.step, self.epoch_steps)
        gathered = self.workers.all_gather([self.stop() or 0, due, self._block])
        self._block = int(gathered[0, 2])
        if self.checkpoints is not None and (last or gathered[0, 1]):
            self._save()
        code = int(gathered[:, 0].max())
        if code and not last:
            where = "nothing" if self.checkpoints is None else str(self._save())
            raise Interrupted(f"stopped at step {self.state.step} of {self.steps}; saved: {where}", exit_code=code)

    def _block_size(self, left: int) -> int:
        size = min(self._block, left)
        if self.checkpoints is not None:
            due = self.checkpoints.steps_until_due(self.state.step, self.epoch_steps)
            size = min(size, due) if due else size
        return size

    def _train_block(self, steps: int, epoch: int) -> None:
        started = time.perf_counter()
        result = self.stepper.run(steps, first=self.state.step)
        seconds = time.perf_counter() - started
        state = self.state
        state.seconds += seconds
        state.step += result.steps
        state.summed += result.steps
        for name, value in result.sums.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        if result.not_finite is not None:
            raise self._not_finite(result.not_finite)
        self._block = int(np.clip(steps * BLOCK_SECONDS / seconds, 1, 4 * steps + 1))
        metrics = {name: value / result.steps for name, value in result.sums.items()}
        metrics["examples_per_second"] = steps * self.batch / seconds
        progress = Progress(
            "training", done=state.step, total=self.steps, epoch=epoch + 1, epochs=self.epochs, metrics=metrics
        )
        self.on_event(progress)

    def _end_epoch(self, epoch: int, rate: float) -> None:
        state = self.state
        started = time.perf_counter()
        line: dict[str, Any] = {"epoch": epoch + 1, "step": state.step}
        for name, value in state.sums.items():
            line[name if name == TOTAL_LOSS else f"losses.{name}"] = value / state.summed
        progress = min(state.step / self.steps, 1.0)
        line["learning_rate"] = learning_rate_at(self.train.schedule, self.train.optimizer.learning_rate, progress)
        line["examples_per_second"] = round(rate, 1)
        with self._use_averages():
            metrics = self.workers.broadcast_object(self.validate) if self.validate is not None else {}
            line |= {f"validation.{name}": value for name, value in metrics.items() if value is not None}
            best = self._is_best(metrics)
            if best:
                state.best_epoch = epoch + 1
                state.best_figure, state.best_loss = metrics.get(self.monitor), metrics.get("loss")
                self.best = copy_values(self.model_variables)
        state.sums, state.summed = {}, 0
        state.history.append(line)
        state.seconds += time.perf_counter() - started
        stopping = self.train.early_stopping
        if stopping is not None and epoch + 1 - state.best_epoch >= stopping.patience:
            state.stopped = True
            self.on_event(Note(f"stopped early: {self.monitor} has not improved for {stopping.patience} epochs"))
        self.on_epoch(state.history)
        self.on_event(EpochEnded(epoch + 1, self.epochs, line, best))

    def _is_best(self, metrics: dict[str, float]) -> bool:
        """Whether an epoch is better than the best before; with equal metrics, the loss decides."""
        metric, before = metrics.get(self.monitor), self.state.best_figure
        if metric is None or before is None or not math.isfinite(before):
            return True
        if metric == before and self.state.best_loss is not None:
            return metrics.get("loss", math.inf) < self.state.best_loss
        return metric < before if self.monitor in LOWER_IS_BETTER else metric > before

    @contextmanager
    def _use_averages(self) -> Iterator[None]:
        """For optimizers with a moving average: put the averaged weights into the model."""
        if not self.stepper.optimizer.use_ema:
            yield
            return
        variables = self.stepper.objective.trainable_variables
        with preserve_values(variables):
            self.stepper.optimizer.finalize_variable_values(variables)
            yield

    def _not_finite(self, name: str) -> TrainingError:
        saved = self.checkpoints.paths() if self.checkpoints is not None else []
        good = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
        what = name if name in (TOTAL_LOSS, GRADIENT_NORM) else f"losses.{name}"
        return TrainingError(
            f"step {self.state.step + 1}: {what} is not finite; the update was not applied; {good}",
            hint="a lower learning rate, --set train.gradient_clip=1.0, or another input.scale",
        )

    def _save(self) -> Path:
        assert self.checkpoints is not None
        # On all workers: a variable with a value on each device is summed over the workers when it is read.
        document, arrays = capture_state(self.state, self._list_variables(), self.best)
        if self.workers.is_chief:
            self.checkpoints.save(self.state.step, document, arrays)
        return self.checkpoints.path_of(self.state.step)

    def _restore(self) -> None:
        if self.checkpoints is None:
            return
        saved, errors = self.checkpoints.read_newest() if self.workers.is_chief else (None, [])
        step = int(self.workers.broadcast(-1 if saved is None else saved.document["step"]))
        if step >= 0 and not self.workers.is_chief:
            saved = self.checkpoints.read_chief(step)
        for message in errors:
            self.on_event(Note(f"{message}; an older checkpoint is used", warning=True))
        if saved is None:
            return
        self.state, self.best = restore_state(saved, self._list_variables())
        self.on_epoch(self.state.history)
        self.on_event(Note(f"continuing at step {self.state.step} of {self.steps}"))

    def _list_variables(self) -> dict[str, Variables]:
        optimizer = list(self.stepper.optimizer.variables)
        return {"model": self.model_variables, "parts": self.part_variables, "optimizer": optimizer}


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """The number of full batches in an epoch; the remaining examples occur in other epochs."""
    return max(1, examples // batch_size)
