"""Agreement with the published code: value and gradient, in float64 and float32.

Where a case has another convention than ours, the constant stands beside it. Left out: kd c14 (KD_Lib's
KA/LSR swaps the arguments of the divergence and forgets a logarithm) and kd c13 (KD_Lib's NoisyTeacher
compares log-probabilities with probabilities): bugs of the published code, which are not copied.
"""

from __future__ import annotations

import pytest
from published import Case, mean

from kdcli.losses import make


@pytest.mark.parametrize(
    ("file", "number", "kind", "options", "factor"),
    [
        ("kd", 0, "soft_targets", {}, 1),
        ("kd", 2, "soft_targets", {}, 1),
        ("kd", 4, "soft_targets", {}, 1),
        ("kd", 6, "soft_targets", {}, "1/T²"),  # convention B, without T²
        ("kd", 16, "soft_targets", {}, 1 / 4),  # maps; the peer's mean divides by the 4 classes too
        ("logit_std", 0, "soft_targets", {"standardize": True}, 1),
        ("logit_std", 2, "soft_targets", {"standardize": True}, 1),
        ("logit_std", 4, "soft_targets", {"standardize": True}, "1/T²"),  # torchdistill, without T²
        ("soft_ce", 0, "soft_cross_entropy", {}, "1/T²"),  # TextBrewer has no T²
        ("soft_ce", 2, "soft_cross_entropy", {}, "1/T²"),  # the same over (batch, steps, classes)
        ("soft_ce", 6, "soft_cross_entropy", {}, "alpha"),  # the peer's alpha is our weight
        ("logit_mse", 0, "logit_mse", None, "1/T²"),  # TextBrewer divides the logits by T
        ("logit_mse", 2, "logit_mse", None, "1/T²"),
    ],
)
def test_agrees_with_the_published_code_up_to_a_constant(file, number, kind, options, factor, dtype):
    case = Case(file, number, dtype, kind)
    temperature = case.hyper("temperature")
    loss = make(kind) if options is None else make(kind, temperature=temperature, **options)
    if isinstance(factor, str):
        factor = 1 / temperature**2 if factor == "1/T²" else case.hyper(factor)
    case.check(lambda student: factor * mean(loss, student=student, teacher=case["teacher"]))


@pytest.mark.parametrize(("number", "factor"), [(8, 1), (10, 6)])
def test_labels_and_soft_targets_mixed(number, factor, dtype):
    # Convention C is alpha · labels + beta · ours; c10 sums over its 6 examples where we take the mean.
    case = Case("kd", number, dtype, "soft_targets")
    alpha, beta = case.hyper("alpha"), case.hyper("beta")
    soft, hard = make("soft_targets", temperature=case.hyper("temperature")), make("labels")
    assert factor in (1, case["student"].shape[0])

    def formula(student):
        labels = mean(hard, student=student, labels=case["labels"])
        return factor * (alpha * labels + beta * mean(soft, student=student, teacher=case["teacher"]))

    case.check(formula)


def test_squared_error_of_probabilities(dtype):
    # Convention E is w · T² · labels(mse) of softened probabilities + (1 − w) · labels.
    import tensorflow as tf

    case = Case("kd", 12, dtype, "soft_targets")
    temperature, weight = case.hyper("temperature"), case.hyper("distil_weight")
    target = tf.nn.softmax(case["teacher"] / temperature)

    def formula(student):
        squared = mean(make("labels", loss="mse"), student=student / temperature, labels=target)
        hard = mean(make("labels"), student=student, labels=case["labels"])
        return weight * temperature**2 * squared + (1 - weight) * hard

    case.check(formula)


def test_soft_targets_at_a_learned_temperature(dtype):
    # The peer learns its temperature; ours is a setting, so that gradient is not compared.
    case = Case("kd", 18, dtype, "soft_targets")
    loss = make("soft_targets", temperature=float(case.arrays["temp"][0]))
    case.check(lambda student: mean(loss, student=student, teacher=case["teacher"]))


def test_labels_that_are_probabilities(dtype):
    case = Case("soft_ce", 4, dtype, "labels")
    case.check(lambda student: mean(make("labels"), student=student, labels=case["target_probs"]))


def projected(case, layers, **weights):
    """Check a hint behind Keras layers that are called in order, with the fixture's weights in them."""
    import keras

    def formula(student, distance="l2"):
        for layer in layers:
            normalizes = isinstance(layer, keras.layers.BatchNormalization)
            student = layer(student, training=True) if normalizes else layer(student)
        return mean(make("hint", distance=distance), student=student, teacher=case["teacher"])

    return formula


@pytest.mark.parametrize("number", [0, 2])
def test_hint_behind_a_normalized_projection(number, dtype):
    from keras import layers

    case = Case("fitnet", number, dtype, "hint")
    if number == 0:
        convolution, name = layers.Conv2D(5, 1, dtype=dtype), "w_conv"
    else:
        convolution, name = layers.Conv2DTranspose(4, 4, strides=2, padding="same", dtype=dtype), "w_convt"
    normalization = layers.BatchNormalization(epsilon=1e-5, dtype=dtype)
    convolution.build(case["student"].shape)
    normalization.build(case["teacher"].shape)
    weights = {name: convolution.kernel, "w_bias": convolution.bias}
    weights |= {"w_gamma": normalization.gamma, "w_beta": normalization.beta}
    case.check(projected(case, [convolution, normalization, layers.ReLU(dtype=dtype)], **weights), **weights)


def test_hint_behind_a_plain_convolution(dtype):
    from keras import layers

    case = Case("fitnet", 4, dtype, "hint")
    layer = layers.Conv2D(5, 1, dtype=dtype)
    layer.build(case["student"].shape)
    weights = {"w_conv": layer.kernel, "w_bias": layer.bias}
    case.check(projected(case, [layer], **weights), **weights)


def test_hint_without_a_projection(dtype):
    case = Case("fitnet", 6, dtype, "hint")
    case.check(projected(case, []))


@pytest.mark.parametrize(
    ("file", "number", "units", "activation", "distance"),
    [("fitnet", 8, 4, "relu", "l2"), ("cosine_feature", 4, 6, None, "cosine")],
)
def test_hint_behind_a_dense_projection(file, number, units, activation, distance, dtype):
    from keras import layers

    case = Case(file, number, dtype, "hint")
    layer = layers.Dense(units, activation=activation, dtype=dtype)
    layer.build(case["student"].shape)
    weights = {"w_lin": layer.kernel, "w_bias": layer.bias}
    formula = projected(case, [layer], **weights)
    case.check(lambda student: formula(student, distance), **weights)


def test_hint_and_logits_through_the_teachers_classifier(dtype):
    # SRRL: the projected feature is the teacher's, and the teacher's classifier says the same of it.
    import tensorflow as tf
    from keras import layers

    case = Case("extra", 4, dtype, "hint")
    dense, normalization = layers.Dense(6, use_bias=False), layers.BatchNormalization(epsilon=1e-5)
    dense.build(case["student"].shape)
    normalization.build(case["teacher"].shape)
    hint, logits = make("hint"), make("logit_mse")

    def formula(student):
        feature = tf.nn.relu(normalization(dense(student), training=True))
        said = feature @ case["cls_kernel"] + case["cls_bias"]
        found = mean(hint, student=feature, teacher=case["teacher"])
        return found + mean(logits, student=said, teacher=case["teacher_logits"])

    weights = {"w_gamma_transfer_1": normalization.gamma, "w_beta_transfer_1": normalization.beta}
    case.check(formula, w_conv_transfer_0=dense.kernel, **weights)


def test_cosine_hint(dtype):
    case = Case("cosine_feature", 0, dtype, "hint")
    case.check(lambda student: projected(case, [])(student, "cosine"))


def test_cosine_hint_on_the_positions_of_a_mask(dtype):
    # Our hint knows no mask: the positions that count are picked out before.
    case = Case("cosine_feature", 2, dtype, "hint")
    kept = case.arrays["mask"] != 0
    loss = make("hint", distance="cosine")
    case.check(lambda student: mean(loss, student=student[kept], teacher=case["teacher"][kept]))


def test_distance_of_normalized_features(dtype):
    # |s/|s| − t/|t||² is 2 − 2 cos: twice ours, at position 0.
    case = Case("cosine_feature", 6, dtype, "hint")
    loss = make("hint", distance="cosine")
    case.check(lambda student: 2 * mean(loss, student=student[:, 0], teacher=case["teacher"][:, 0]))
