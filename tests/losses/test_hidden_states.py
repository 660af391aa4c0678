"""Hidden states against the published code, TextBrewer's `hid_mse_loss` and `cos_loss`.

A mask's mean is over the tokens of the whole batch, there and here. BERT-PKD's `pkd_loss` is twice the cosine
distance of the first token. TextBrewer's `fsp_loss` and `mmd_loss`, its cases 11 to 14, are `solution_flow`.
"""

from __future__ import annotations

import numpy as np
import pytest
from published import Case, mean

from kdcli.losses import make


def test_mse_without_a_mask_agrees_with_the_published_code(dtype):
    case = Case("textbrewer", 8, dtype, "hidden_states")
    case.check(lambda student: mean(make("hidden_states"), student=student, teacher=case["teacher"]))


def test_masked_mse_of_projected_states_agrees_with_the_published_code(dtype):
    import keras

    case = Case("textbrewer", 10, dtype, "hidden_states")
    dense, loss = keras.layers.Dense(case["teacher"].shape[-1]), make("hidden_states")
    dense.build(case["student"].shape)
    case.check(
        lambda student: mean(loss, student=dense(student), teacher=case["teacher"], mask=case["mask"]),
        w_lin=dense.kernel,
        w_bias=dense.bias,
    )


@pytest.mark.parametrize("number", [0, 2])
def test_cosine_distance_agrees_with_the_published_code(number, dtype):
    case = Case("cosine_feature", number, dtype, "hidden_states")
    mask = case["mask"] if "mask" in case.arrays else None
    loss = make("hidden_states", distance="cosine")
    case.check(lambda student: mean(loss, student=student, teacher=case["teacher"], mask=mask))


def test_twice_the_first_tokens_cosine_distance_is_patient_distillation(dtype):
    case = Case("cosine_feature", 6, dtype, "hidden_states")
    batch, steps, _ = case["student"].shape
    first = np.zeros((batch, steps))
    first[:, 0] = 1
    loss = make("hidden_states", distance="cosine")
    case.check(lambda student: 2 * mean(loss, student=student, teacher=case["teacher"], mask=first))


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_padding_has_no_effect_and_no_gradient(distance):
    import tensorflow as tf

    random = np.random.default_rng(0)
    student, teacher = (random.normal(size=(3, 4, 5)).astype("float32") for _ in range(2))
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    loss, watched = make("hidden_states", distance=distance), tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        value = mean(loss, student=watched, teacher=teacher, mask=mask)
    slope = tape.gradient(value, watched).numpy()
    assert not slope[mask == 0].any()
    assert slope[mask == 1].any(axis=-1).all()
    tokens = [loss(student=student[mask == 1], teacher=teacher[mask == 1]).numpy()]
    assert float(value) == pytest.approx(np.mean(tokens), rel=1e-5)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_a_mask_of_zeros_gives_zero(distance):
    student, teacher = np.ones((2, 3, 4), "float32"), np.zeros((2, 3, 4), "float32")
    found = make("hidden_states", distance=distance)(student=student, teacher=teacher, mask=np.zeros((2, 3)))
    assert found.numpy().tolist() == [0.0, 0.0]


def test_a_mask_of_another_length_is_refused():
    states = np.zeros((2, 3, 4), "float32")
    with pytest.raises(ValueError, match=r"a mask of shape \(2, 4\) does not fit \(2, 3\)"):
        make("hidden_states")(student=states, teacher=states, mask=np.ones((2, 4)))


def test_pairs_are_summed():
    random = np.random.default_rng(0)
    students, teachers = ([random.normal(size=(2, 3, 4)).astype("float32") for _ in range(2)] for _ in range(2))
    loss = make("hidden_states")
    alone = [loss(student=s, teacher=t).numpy() for s, t in zip(students, teachers, strict=True)]
    assert loss(student=students, teacher=teachers).numpy() == pytest.approx(sum(alone), rel=1e-6)
