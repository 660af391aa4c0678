"""The loop: length, selection on validation, the log, and the optimizer's settings."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

from kdcli.data.examples import Examples
from kdcli.data.feed import Feed
from kdcli.data.views import Views
from kdcli.distillation.objective import Objective
from kdcli.distillation.terms import Term
from kdcli.errors import Interrupted, TrainingError
from kdcli.evaluation.quality import measure_quality
from kdcli.events import EpochEnded, Note, Progress
from kdcli.jobs.build import with_epochs_and_steps
from kdcli.losses.labels import Labels
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.prediction import Predictor
from kdcli.models.preprocessing import make_preprocessing
from kdcli.recipe.model_sections import InputSection
from kdcli.recipe.optimizer import OPTIMIZERS
from kdcli.recipe.train_section import TrainSection
from kdcli.training.checkpoint import Checkpoints
from kdcli.training.loop import Trainer
from kdcli.training.step import Stepper, make_schedule

TRAIN, HELD, BATCH = 40, 24, 8
X, Y = blobs(TRAIN + HELD)
ROWS = np.arange(TRAIN + HELD)


class Setup:
    """A trainer on blobs, with everything that tests look at."""

    def __init__(self, *, layers=(), metrics=None, validation=True, folder=None, stop=None, **train):
        keras.utils.set_random_seed(5)
        head = [keras.layers.Flatten(), keras.layers.Dense(3)]
        self.model = keras.Sequential([keras.Input((8, 8, 1)), *layers, *head])
        section = InputSection()
        shape = {"raw_shape": (8, 8, 1), "raw_dtype": "uint8", "shape": (8, 8, 1), "dtype": "float32"}
        preparation = make_preprocessing(section, **shape, name="student")
        network = KerasNetwork(self.model, name="student").with_preprocessing({"x": preparation})
        self.train = with_epochs_and_steps(TrainSection.model_validate({"batch_size": BATCH, **train}), TRAIN)
        examples = Examples("train", {"x": X}, Y, None, ROWS[:TRAIN])
        self.held = Examples("validation", {"x": X}, Y, None, ROWS[TRAIN:])
        objective = Objective((Term(Labels()),), student=network)
        optimizer = self.train.optimizer
        rate = make_schedule(optimizer.learning_rate, self.train.schedule, self.train.steps)
        self.optimizer = optimizer.build(rate)
        self.optimizer.build(objective.trainable_variables)
        self.stepper = Stepper(
            objective,
            Feed(examples, Views((), seed=0, count=1, examples=TRAIN)),
            self.optimizer,
            batch_size=BATCH,
            total_steps=self.train.steps,
            strategy=tf.distribute.get_strategy(),
        )
        self.scripted = iter(metrics or ())
        self.predict = Predictor(network)
        self.events, self.seen, self.lines = [], [], []
        checkpoint = self.train.checkpoint
        kept = Checkpoints(folder, every=checkpoint.every, keep=checkpoint.keep) if folder else None
        self.trainer = Trainer(
            self.stepper,
            model_variables=list(self.model.variables),
            part_variables=[],
            train=self.train,
            validate=(self.validate if metrics is None else self.script) if validation else None,
            monitor=self.train.early_stopping.monitor if self.train.early_stopping else "accuracy",
            checkpoints=kept,
            stop=stop or (lambda: None),
            on_event=self.events.append,
            on_epoch=lambda history: self.lines.append(len(history)),
        )

    def weights(self) -> list[np.ndarray]:
        return [variable.value.numpy() for variable in self.model.variables]

    def script(self) -> dict[str, float]:
        self.seen.append(self.weights())
        return {self.trainer.monitor: next(self.scripted)}

    def validate(self) -> dict[str, float]:
        self.seen.append(self.weights())
        logits = self.predict(self.held.take, HELD)["logits"]
        assert_equal(self.weights(), self.seen[-1])
        quality = measure_quality(logits, self.held.all_labels(), task="classification")
        return {"accuracy": quality.accuracy, "loss": quality.loss}


def assert_equal(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_epochs_train_learn_and_log_a_line_each():
    setup = Setup(epochs=8, optimizer={"kind": "adam", "learning_rate": 0.02})
    trained = setup.trainer.run()
    assert (trained.steps, trained.epochs, setup.lines) == (40, 8, list(range(1, 9)))
    assert [line["step"] for line in trained.history] == [5 * epoch for epoch in range(1, 9)]
    expected = ["epoch", "step", "loss", "losses.labels", "learning_rate", "examples_per_second"]
    assert list(trained.history[0]) == [*expected, "validation.accuracy", "validation.loss"]
    assert trained.history[-1]["validation.accuracy"] >= 0.9
    assert trained.history[-1]["loss"] < 0.5 * trained.history[0]["loss"]
    assert [event.epoch for event in setup.events if isinstance(event, EpochEnded)] == list(range(1, 9))


def test_steps_end_training_in_the_middle_of_an_epoch():
    setup = Setup(steps=7)
    trained = setup.trainer.run()
    assert (trained.steps, trained.epochs) == (7, 2)
    assert [line["step"] for line in trained.history] == [5, 7]
    assert max(event.done for event in setup.events if isinstance(event, Progress)) == 7


@pytest.mark.parametrize(
    ("monitor", "metrics", "best"),
    [("accuracy", (0.5, 0.7, 0.7, 0.6), 2), ("loss", (0.9, 0.4, 0.2, 0.3), 3), ("mae", (0.1, 0.2, 0.3, 0.4), 1)],
)
def test_best_weights_on_validation_are_in_the_model_at_the_end(monitor, metrics, best):
    setup = Setup(epochs=4, metrics=metrics, early_stopping={"monitor": monitor, "patience": 9})
    trained = setup.trainer.run()
    assert trained.best_epoch == best
    assert_equal(setup.weights(), setup.seen[best - 1])
    assert not np.array_equal(setup.seen[0][0], setup.seen[3][0])
    assert [event.best for event in setup.events if isinstance(event, EpochEnded)][best - 1]


def test_early_stopping_waits_for_its_patience_and_emits_a_note():
    metrics = (0.5, 0.7, 0.6, 0.7, 0.9)
    setup = Setup(epochs=5, metrics=metrics, early_stopping={"monitor": "accuracy", "patience": 2})
    trained = setup.trainer.run()
    assert (trained.epochs, trained.steps, trained.best_epoch) == (4, 20, 2)
    assert_equal(setup.weights(), setup.seen[1])
    notes = [event.text for event in setup.events if isinstance(event, Note)]
    assert notes == ["stopped early: accuracy has not improved for 2 epochs"]


def test_without_validation_the_last_weights_are_used():
    setup = Setup(epochs=3, validation=False, early_stopping={"monitor": "accuracy", "patience": 1})
    trained = setup.trainer.run()
    assert (trained.epochs, trained.best_epoch) == (3, 3)
    assert not any(name.startswith("validation.") for name in trained.history[-1])


def test_validation_touches_neither_batch_statistics_nor_random_states():
    def layers():
        return [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=1)]

    # `validate` itself compares every variable before and after.
    with_validation, without = Setup(epochs=2, layers=layers()), Setup(epochs=2, layers=layers(), validation=False)
    trained = with_validation.trainer.run()
    without.trainer.run()
    assert len(with_validation.seen) == 2
    after_training = with_validation.seen[-1]
    assert_equal(after_training, without.weights())
    assert trained.history[0]["loss"] != trained.history[1]["loss"]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({"kind": "constant"}, (0.1, 0.1, 0.1, 0.1)),
        ({"kind": "linear"}, (0.075, 0.05, 0.025, 0.0)),
        ({"kind": "cosine"}, (0.0853553, 0.05, 0.0146447, 0.0)),
        ({"kind": "steps", "at": [0.5], "factor": 0.1}, (0.1, 0.01, 0.01, 0.01)),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_schedule_is_in_the_log(schedule, rates):
    setup = Setup(epochs=4, schedule=schedule, optimizer={"kind": "sgd", "learning_rate": 0.1})
    history = setup.trainer.run().history
    assert [line["learning_rate"] for line in history] == pytest.approx(rates, abs=1e-6)


def test_schedule_is_applied_to_the_updates():
    schedule = {"kind": "steps", "at": [0.5], "factor": 1e-9}
    setup = Setup(epochs=2, schedule=schedule, optimizer="sgd", metrics=(0.1, 0.2))
    start = setup.weights()
    setup.trainer.run()
    moved = [np.abs(now - was).max() for now, was in zip(setup.seen[0], start, strict=True)]
    moved_later = [np.abs(a - b).max() for a, b in zip(setup.seen[1], setup.seen[0], strict=True)]
    assert min(moved) > 1e-4
    assert max(moved_later) < 1e-7


def test_moving_average_is_validated_while_training_uses_raw_weights(monkeypatch):
    monkeypatch.setattr("kdcli.training.loop.BLOCK_SECONDS", 0.0)
    optimizer = {"kind": "sgd", "learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.5}
    setup = Setup(epochs=2, metrics=(0.1, 0.2), optimizer=optimizer)
    raw = []

    def record(event):
        if isinstance(event, Progress):
            raw.append(setup.weights()[0])
        elif isinstance(event, EpochEnded):
            np.testing.assert_array_equal(setup.weights()[0], raw[-1])

    setup.trainer.on_event = record
    setup.trainer.run()
    average = raw[0]
    for value in raw[1:]:
        average = 0.5 * average + 0.5 * value
    assert len(raw) == 10
    np.testing.assert_allclose(setup.seen[1][0], average, atol=1e-5)
    np.testing.assert_array_equal(setup.weights()[0], setup.seen[1][0])
    assert np.abs(setup.seen[1][0] - raw[-1]).max() > 1e-3


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_takes_finite_steps(kind):
    setup = Setup(steps=2, optimizer=kind, validation=False)
    start = setup.weights()
    trained = setup.trainer.run()
    assert trained.steps == 2
    assert all(np.isfinite(weight).all() for weight in setup.weights())
    assert not np.array_equal(setup.weights()[0], start[0])


def test_loss_that_is_not_finite_stops_training_with_step_term_and_checkpoint(tmp_path):
    given = {"optimizer": {"kind": "sgd", "learning_rate": 3e38}, "checkpoint": {"every": "1 steps"}}
    setup = Setup(epochs=2, folder=tmp_path / "checkpoint", **given)
    with pytest.raises(TrainingError, match=r"^step \d+: losses\.labels is not finite; the update was") as caught:
        setup.trainer.run()
    step = int(caught.value.message.split(":")[0].removeprefix("step ")) - 1
    assert 1 <= step < 10
    newest = tmp_path / "checkpoint" / f"step-{step:09d}.checkpoint"
    assert caught.value.message.endswith(f"the last good checkpoint is {newest}")
    assert caught.value.exit_code == 6
    assert "learning rate" in caught.value.hint
    saved, _ = setup.trainer.checkpoints.read_newest()
    arrays = [saved.arrays[f"model/{number}"] for number in range(len(setup.weights()))]
    assert all(np.isfinite(array).all() for array in arrays)
    assert_equal(setup.weights(), arrays)


def test_stop_saves_and_names_the_step_and_the_file(tmp_path):
    setup = Setup(epochs=3, folder=tmp_path / "checkpoint", stop=lambda: 143)
    with pytest.raises(
        Interrupted, match=r"stopped at step 1 of 15; saved: .*step-000000001\.checkpoint"
    ) as caught:
        setup.trainer.run()
    assert caught.value.exit_code == 143
    assert (tmp_path / "checkpoint" / "step-000000001.checkpoint").exists()
