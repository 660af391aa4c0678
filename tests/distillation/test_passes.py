"""No step runs the student or the teacher twice, for any losses: counted in the compiled step."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs
from counting import count_calls
from four_networks import network, small

from kdcli.data.examples import Examples
from kdcli.data.feed import Batch, Feed
from kdcli.data.views import create_identity_views
from kdcli.distillation.objective import Objective
from kdcli.distillation.targets import LiveTargets, ResidentTargets
from kdcli.distillation.terms import build_terms, list_teacher_taps
from kdcli.losses import LOSS_KINDS, make
from kdcli.training.step import Stepper

X, Y = blobs(12, size=16)


def objective_of(losses, student, teacher, *, live=True):
    """All losses over targets that are asked for in every step, or that lie in memory."""
    keras.utils.set_random_seed(0)
    terms = build_terms(losses, student=student, teacher=teacher, examples=12, batch=6)
    targets = LiveTargets(teacher, list_teacher_taps(terms))
    if not live:
        answer = teacher.compute({"x": tf.constant(X)}, taps=list_teacher_taps(terms))
        kept = {"logits": answer.logits, **answer.features}
        targets = ResidentTargets({name: value.numpy() for name, value in kept.items()}, examples=12)
    return Objective(terms, student=student, targets=targets)


def of_convolutions():
    """Every kind that compares outputs, maps or vectors."""
    return [
        make(kind)
        for kind, member in LOSS_KINDS.items()
        if not (getattr(member, "attention_scores", False) or getattr(member, "grows_student", False))
    ]


@pytest.mark.parametrize("live", [True, False], ids=["live", "kept"])
def test_all_kinds_at_once_take_one_pass_of_each_model(live):
    losses = of_convolutions()
    assert len(losses) >= len(LOSS_KINDS) - 2
    student, teacher = small("depthwise"), small("cnn", width=4, seed=1)
    objective = objective_of(losses, student, teacher, live=live)
    calls = count_calls(student.model), count_calls(teacher.model)
    variables = [variable.value for variable in student.trainable_variables]

    def step(inputs, labels, positions):
        batch = Batch(inputs, labels, None, positions, tf.constant(0), 6)
        with tf.GradientTape() as tape:
            total, values = objective(batch, tf.constant(0.0))
        return values, [slope for slope in tape.gradient(total, variables) if slope is not None]

    traced = tf.function(step, autograph=False)
    made = traced.get_concrete_function({"x": tf.constant(X[:6])}, tf.constant(Y[:6]), tf.range(6))
    assert made.structured_outputs[0].shape == (len(losses),)
    assert len(made.structured_outputs[1]) > 20
    assert calls == ([True], [False] if live else [])


def test_attention_scores_come_from_the_same_pass_of_the_compiled_step():
    losses = [make(kind) for kind, member in LOSS_KINDS.items() if getattr(member, "attention_scores", False)]
    losses += [make("labels"), make("soft_targets"), make("hint")]
    student, teacher = (small("transformer", blocks=2, seed=seed) for seed in (0, 1))
    examples = Examples("train", {"x": X}, Y, None, np.arange(12))
    objective = objective_of(losses, student, teacher)
    optimizer = keras.optimizers.SGD(1e-4)
    optimizer.build(objective.trainable_variables)
    views, strategy = create_identity_views(examples), tf.distribute.get_strategy()
    feed = Feed(examples, views, classes=3)
    stepper = Stepper(objective, feed, optimizer, batch_size=6, total_steps=4, strategy=strategy)
    stepper.start(np.arange(12).reshape(2, 6), table=views.table(0), slot=0)
    calls = count_calls(student.model), count_calls(teacher.model)
    result = stepper.run(2, first=0)
    assert result.not_finite is None
    assert set(result.sums) == {"loss", *(loss.label for loss in losses)}
    assert calls == ([True], [False])


def test_the_count_sees_a_second_pass():
    model = small("cnn").model
    calls = count_calls(model)

    @tf.function
    def twice(x):
        return model(x, training=True) + model(x, training=False)

    twice(tf.zeros((1, 16, 16, 1)))
    assert calls == [True, False]
    assert network(model).outputs == 3
