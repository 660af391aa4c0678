"""Classifier reuse against the published code: DefangChen/SimKD, its projector and `nn.MSELoss`."""

from __future__ import annotations

import numpy as np
import pytest
from published import Case, mean

from kdcli.loss import Given
from kdcli.losses import make


def weights(layers):
    """The case's names of a projector's variables: convolutions 0, 3 and 6, normalisations 1, 4 and 7."""
    found = {}
    for place in (0, 3, 6):
        found[f"w_conv_transfer_{place}"] = layers[place].kernel
        found[f"w_gamma_transfer_{place + 1}"] = layers[place + 1].gamma
        found[f"w_beta_transfer_{place + 1}"] = layers[place + 1].beta
    return found


@pytest.mark.parametrize("number", [0, 2])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("simkd", number, dtype, "classifier_reuse")
    loss, teacher = make("classifier_reuse", factor=int(case.hyper("factor"))), case["teacher"]
    parts = loss.build(Given((case["student"].shape[1:],), (teacher.shape[1:],)))
    (layers,) = parts.trained["projector"]
    case.check(lambda student: mean(loss, student=student, teacher=teacher, parts=parts), **weights(layers))


def test_projected_features_give_the_same_value(dtype):
    import tensorflow as tf

    case = Case("simkd", 0, dtype, "classifier_reuse")
    loss = make("classifier_reuse")
    layers = loss.projector(case["student"].shape[1:], case["teacher"].shape[1:])
    case.load(**weights(layers))
    projected = case["student"]
    for layer in layers:
        projected = layer(projected, training=True)
    found = tf.reduce_mean(loss(student=projected, teacher=case["teacher"]))
    assert float(found) == pytest.approx(float(case.arrays["loss"]), rel=1e-8 if dtype == "float64" else 2e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"), [((6, 6, 3), (3, 3, 4)), ((3, 3, 3), (6, 6, 4)), ((5, 2, 3), (2, 5, 4))]
)
def test_the_larger_map_is_averaged_down_first(ours, theirs):
    from kdcli.formulas.map_sizes import match_sizes

    random = np.random.default_rng(0)
    student, teacher = (random.normal(size=(2, *shape)).astype("float32") for shape in (ours, theirs))
    loss = make("classifier_reuse")
    parts = loss.build(Given((ours,), (theirs,)))
    found = loss(student=student, teacher=teacher, parts=parts).numpy()
    small, target = match_sizes(student, teacher)
    feature = small
    for layer in parts.trained["projector"][0]:
        feature = layer(feature, training=True)
    assert found == pytest.approx(np.mean(np.square(feature - target), axis=(1, 2, 3)), rel=1e-5)


def test_factor_sets_the_inner_width_of_the_projector():
    layers = make("classifier_reuse", factor=4).projector((4, 4, 3), (4, 4, 8))
    kernels = [tuple(layer.kernel.shape) for layer in layers if hasattr(layer, "kernel")]
    assert kernels == [(1, 1, 3, 2), (3, 3, 2, 2), (1, 1, 2, 8)]
    assert not any(getattr(layer, "use_bias", False) for layer in layers)


def test_other_channels_without_a_projector_are_refused():
    student, teacher = np.zeros((1, 2, 2, 3), "float32"), np.zeros((1, 2, 2, 4), "float32")
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 3\) and teacher feature \(1, 2, 2, 4\) differ in channels"):
        make("classifier_reuse")(student=student, teacher=teacher)


def test_statistics_of_the_projector_move_and_stay_in_the_checkpoint():
    loss = make("classifier_reuse")
    parts = loss.build(Given(((2, 2, 3),), ((2, 2, 4),)))
    before = [variable.numpy() for variable in parts.variables]
    student = np.random.default_rng(1).normal(size=(8, 2, 2, 3)).astype("float32")
    loss(student=student, teacher=np.zeros((8, 2, 2, 4), "float32"), parts=parts)
    moved = [not np.array_equal(a, b.numpy()) for a, b in zip(before, parts.variables, strict=True)]
    # Of each normalisation the mean and the variance; nothing that is trained changes by a call.
    assert sum(moved) == 6
    assert len(parts.variables) == len(parts.trainable_variables) + 6
