"""The objective: one student pass, one teacher pass, weighted terms."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs
from counting import count_calls

from kdcli.data.feed import Batch
from kdcli.distillation.objective import Objective
from kdcli.distillation.targets import LiveTargets
from kdcli.distillation.terms import build_terms, list_teacher_taps
from kdcli.losses import make
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import Preprocessing
from kdcli.spec import Change
from kdcli.zoo import Cnn, Mlp

X, Y = blobs(6)


def network(model):
    preparation = Preprocessing((8, 8, 1), "uint8", (8, 8, 1), "float32")
    return KerasNetwork(model, name="given").with_preprocessing({"x": preparation})


def student(**options):
    keras.utils.set_random_seed(1)
    return network(Mlp(width=4, **options).build((8, 8, 1), 3))


def cnn(seed=1, width=2, blocks=2):
    keras.utils.set_random_seed(seed)
    return network(Cnn(width=width, blocks=blocks).build((8, 8, 1), 3))


def batch(x=X, y=Y, weights=None, total=None):
    weights = None if weights is None else tf.constant(weights, tf.float32)
    inputs = {"x": tf.convert_to_tensor(x)}
    return Batch(inputs, tf.constant(y), weights, tf.range(x.shape[0]), tf.constant(0), total or x.shape[0])


def objective(*losses, pupil=None, teacher=None, **more):
    pupil = pupil or student()
    terms = build_terms(losses, student=pupil, teacher=teacher)
    targets = LiveTargets(teacher, list_teacher_taps(terms)) if teacher else None
    return Objective(terms, student=pupil, targets=targets, **more)


def values(made, given=None, progress=0.0):
    total, terms = made(given or batch(), tf.constant(progress))
    return float(total), dict(zip(made.names, terms.numpy().tolist(), strict=True))


def gradients(made, given):
    with tf.GradientTape() as tape:
        total, _ = made(given, tf.constant(0.0))
    found = tape.gradient(total, [v.value for v in made.trainable_variables])
    return np.concatenate([np.ravel(tf.convert_to_tensor(gradient)) for gradient in found])


MANY = (
    make("labels", weight=0.5),
    make("soft_targets", weight=0.25),
    make("logit_mse"),
    make("hint", student_layer="block1", teacher_layer="block2"),
    make("hint", name="second", student_layer=["block1", "block2"], teacher_layer=["block1", "block2"]),
)


def test_many_terms_take_one_student_and_one_teacher_pass():
    pupil, teacher = cnn(), cnn(0, width=4)
    made = objective(*MANY, pupil=pupil, teacher=teacher)
    calls = count_calls(pupil.model), count_calls(teacher.model)
    values(made)
    assert calls == ([True], [False])


def test_without_a_teacher_no_targets_are_needed():
    made = objective(make("labels"))
    assert made.targets is None
    calls = count_calls(made.network.model)
    values(made)
    assert calls == [True]


def test_teacher_feature_of_several_terms_is_listed_once():
    terms = build_terms(MANY, student=cnn(), teacher=cnn(0, width=4))
    assert list_teacher_taps(terms) == ("block2", "block1")


def test_the_total_is_the_weighted_sum_of_the_named_terms():
    total, terms = values(objective(*MANY, pupil=cnn(), teacher=cnn(0, width=4)))
    assert list(terms) == ["labels", "soft_targets", "logit_mse", "hint", "second"]
    weights = [0.5, 0.25, 1.0, 10.0, 10.0]
    expected = sum(weight * value for weight, value in zip(weights, terms.values(), strict=True))
    assert total == pytest.approx(expected, rel=1e-5)


def test_a_term_is_the_mean_of_its_loss_over_the_batch():
    pupil, teacher = student(), cnn(0)
    _, terms = values(objective(make("labels"), make("soft_targets"), pupil=pupil, teacher=teacher))
    ours, theirs = (side.compute({"x": X}).logits for side in (pupil, teacher))
    direct = make("soft_targets")(student=ours, teacher=theirs)
    assert terms["soft_targets"] == pytest.approx(float(tf.reduce_mean(direct)), rel=1e-5)
    direct = make("labels")(student=ours, labels=Y)
    assert terms["labels"] == pytest.approx(float(tf.reduce_mean(direct)), rel=1e-5)


TERMS = (make("labels"), make("soft_targets"), make("hint", teacher_layer="pooling"))


def test_a_weight_of_zero_removes_an_example_exactly():
    made = objective(*TERMS, teacher=cnn(0))
    other_x, other_y = X.copy(), Y.copy()
    other_x[5], other_y[5] = 255 - other_x[5], (other_y[5] + 1) % 3
    weights = [1, 1, 1, 1, 1, 0]
    found = gradients(made, batch(weights=weights))
    np.testing.assert_array_equal(found, gradients(made, batch(other_x, other_y, weights)))
    np.testing.assert_allclose(found, gradients(made, batch(X[:5], Y[:5], total=6)), atol=1e-5)
    assert not np.allclose(found, gradients(made, batch()), atol=1e-4)


def test_a_weight_of_two_counts_an_example_twice():
    made = objective(*TERMS, teacher=cnn(0))
    doubled = gradients(made, batch(weights=[1, 1, 1, 2, 1, 1]))
    repeated = gradients(made, batch(X[[0, 1, 2, 3, 3, 4, 5]], Y[[0, 1, 2, 3, 3, 4, 5]], total=6))
    np.testing.assert_allclose(doubled, repeated, atol=1e-4)


def test_class_weights_act_on_label_losses_only():
    pupil, teacher = student(), cnn(0)
    _, plain = values(objective(*TERMS, pupil=pupil, teacher=teacher))
    made = objective(*TERMS, pupil=pupil, teacher=teacher, class_weights=np.array([0, 0, 3], np.float32))
    _, weighted = values(made)
    direct = make("labels")(student=pupil.compute({"x": X}).logits, labels=Y).numpy()
    assert weighted["labels"] == pytest.approx(3 * direct[Y == 2].sum() / 6, rel=1e-5)
    assert weighted["soft_targets"] == plain["soft_targets"]


def test_class_weights_and_sample_weights_multiply():
    pupil = student()
    made = objective(make("labels"), pupil=pupil, class_weights=np.array([1, 1, 3], np.float32))
    _, terms = values(made, batch(weights=[1, 1, 0.5, 1, 1, 2]))
    direct = make("labels")(student=pupil.compute({"x": X}).logits, labels=Y).numpy()
    assert terms["labels"] == pytest.approx((direct * [1, 1, 1.5, 1, 1, 6]).mean(), rel=1e-5)


def test_label_smoothing_reaches_the_labels():
    made = objective(make("labels"), label_smoothing=0.3)
    direct = make("labels")(student=made.network.compute({"x": X}).logits, labels=Y, label_smoothing=0.3)
    assert values(made)[0] == pytest.approx(float(tf.reduce_mean(direct)), rel=1e-5)


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.0), (0.1, 0.5 * 0.8), (0.5, 0.0), (1.0, 0.0)])
def test_weights_follow_their_schedule_and_terms_do_not(progress, weight):
    loss = make("labels", weight=Change(start=1.0, to=0.0, over=0.5), warmup=0.2)
    total, terms = values(objective(loss), progress=progress)
    assert total == pytest.approx(weight * terms["labels"], rel=1e-5, abs=1e-7)
    assert terms["labels"] > 0.5


def regularized(**options):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(4, name="hidden", **options)(keras.layers.Flatten()(inputs))
    return network(keras.Model(inputs, keras.layers.Dense(3)(x)))


def test_regularization_of_the_student_is_a_term_of_weight_one():
    pupil = regularized(kernel_regularizer=keras.regularizers.L2(0.01))
    total, terms = values(objective(make("labels", weight=0.5), pupil=pupil))
    expected = 0.01 * np.square(pupil.model.get_layer("hidden").kernel.numpy()).sum()
    assert terms["regularization"] == pytest.approx(expected, rel=1e-5)
    assert total == pytest.approx(0.5 * terms["labels"] + expected, rel=1e-5)


def test_activity_regularization_is_computed_per_step():
    made = objective(make("labels"), pupil=regularized(activity_regularizer=keras.regularizers.L1(0.01)))
    step = tf.function(lambda x: made(batch(x), tf.constant(0.0)), autograph=False)
    first, again, dark = (step(tf.constant(x))[1].numpy()[1] for x in (X, X, X // 2))
    assert first == again
    assert 0 < dark < first


def test_different_widths_get_a_trained_projection():
    pupil, teacher = cnn(width=2), cnn(0, width=5)
    made = objective(make("hint"), pupil=pupil, teacher=teacher)
    assert [tuple(v.shape) for v in made.parts] == [(1, 1, 4, 10), (10,)]
    assert made.trainable_variables == pupil.trainable_variables + made.parts
    given = batch()
    with tf.GradientTape() as tape:
        total, _ = made(given, tf.constant(0.0))
    found = tape.gradient(total, [v.value for v in made.parts])
    assert tf.linalg.global_norm(found) > 0
    assert not {id(v) for v in made.parts} & {id(v) for v in pupil.variables}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_apply_to_each_class_of_a_mixed_label(smoothing):
    # The loss of a mixture is the mixture of the losses, each with the weight of its class.
    weights = np.array([1.0, 5.0, 0.2], np.float32)
    made = objective(make("labels"), class_weights=weights, label_smoothing=smoothing)
    share = np.linspace(0.1, 0.9, 6).astype(np.float32)[:, None]
    partner = (Y + 1) % 3
    mixed = share * np.eye(3, dtype=np.float32)[Y] + (1 - share) * np.eye(3, dtype=np.float32)[partner]
    total, _ = values(made, batch(y=mixed))
    own, _ = values(made, batch(weights=share[:, 0]))
    other, _ = values(made, batch(y=partner, weights=1 - share[:, 0]))
    assert total == pytest.approx(own + other, rel=1e-5)


def test_one_hot_labels_equal_class_numbers():
    weights = np.array([1.0, 5.0, 0.2], np.float32)
    for more in ({}, {"class_weights": weights}, {"class_weights": weights, "label_smoothing": 0.2}):
        made = objective(make("labels"), **more)
        hot = np.eye(3, dtype=np.float32)[Y]
        assert values(made, batch(y=hot))[0] == pytest.approx(values(made)[0], rel=1e-6)
