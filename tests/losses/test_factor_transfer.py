"""Factor transfer against the published code, RepDistiller's `FactorTransfer`.

torchdistill's `FTLoss` (cases 4 and 6) is another loss: as in the paper it takes the norm of the whole factor,
where RepDistiller's first takes the mean over the channels. RepDistiller trains the paraphraser before the
student; here it learns beside it, which the fixtures do not show: they give factors.
"""

from __future__ import annotations

import numpy as np
import pytest
from published import Case, mean

from kdcli.loss import Given, Parts
from kdcli.losses import make
from kdcli.losses.factor_transfer import RECONSTRUCTION_WEIGHT


def maps(*shapes, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype("float32") for shape in shapes]


@pytest.mark.parametrize("number", [0, 2])
def test_factors_agree_with_the_published_code(number, dtype):
    case = Case("ft", number, dtype, "factor_transfer")
    loss = make("factor_transfer", p1=int(case.hyper("p1")), p2=int(case.hyper("p2")))
    teacher = case["teacher"]
    case.check(lambda student: mean(loss, student=student, teacher=teacher))


@pytest.mark.parametrize(("ours", "theirs"), [((6, 6), (3, 3)), ((3, 3), (6, 6)), ((5, 3), (3, 4))])
@pytest.mark.parametrize(("p1", "p2"), [(2, 1), (2, 2), (1, 1), (3, 2)])
def test_the_larger_factor_is_averaged_down_and_its_pattern_compared(ours, theirs, p1, p2):
    from kdcli.formulas.map_sizes import match_sizes

    student, teacher = maps((2, *ours, 3), (2, *theirs, 5))

    def pattern(factor):
        flat = np.mean(np.asarray(factor, "float64") ** p1, axis=-1).reshape(2, -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    wanted = np.mean(np.abs(np.subtract(*map(pattern, match_sizes(student, teacher)))) ** p2, axis=1)
    found = make("factor_transfer", p1=p1, p2=p2)(student=student, teacher=teacher)
    assert found.numpy() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("k", [0.5, 1.0, 0.1])
def test_factors_have_a_fraction_of_the_teachers_channels(k):
    parts = make("factor_transfer", k=k).build(Given(((4, 4, 3),), ((2, 2, 6),)))
    inside = max(int(6 * k), 1)
    assert parts.trained["translators"][0][-3].kernel.shape == (3, 3, inside, inside)
    assert parts.trained["encoders"][0][-2].kernel.shape == (3, 3, inside, inside)
    assert parts.trained["decoders"][0][-2].kernel.shape == (3, 3, 6, 6)


def test_translated_factors_equal_passed_factors():
    # As the published case with a translator has it: the teacher's side is a factor already.
    student, teacher = maps((4, 4, 4, 3), (4, 4, 4, 3))
    loss = make("factor_transfer")
    parts = loss.build(Given(((4, 4, 3),), ((4, 4, 6),)))
    alone = Parts({"translators": parts.trained["translators"]})
    factor = student
    for layer in parts.trained["translators"][0]:
        factor = layer(factor, training=True)
    found = loss(student=student, teacher=teacher, parts=alone).numpy()
    assert found == pytest.approx(loss(student=factor, teacher=teacher).numpy(), rel=1e-5)


def test_the_paraphraser_learns_from_its_own_error_alone():
    import tensorflow as tf

    student, teacher = maps((4, 4, 4, 3), (4, 4, 4, 6))
    loss = make("factor_transfer")
    parts = loss.build(Given(((4, 4, 3),), ((4, 4, 6),)))
    (encoder,), (decoder,) = parts.trained["encoders"], parts.trained["decoders"]
    variables = [variable.value for layer in encoder + decoder for variable in layer.trainable_variables]

    def error():
        flow = teacher
        for layer in encoder + decoder:
            flow = layer(flow)
        return RECONSTRUCTION_WEIGHT * tf.reduce_mean(tf.square(flow - teacher))

    slopes = []
    for formula in (lambda: mean(loss, student=student, teacher=teacher, parts=parts), error):
        with tf.GradientTape() as tape:
            value = formula()
        slopes.append(tape.gradient(value, variables))
    for found, wanted in zip(*slopes, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-8)


def test_trained_paraphraser_reconstructs_the_teachers_map():
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    student, teacher = maps((32, 4, 4, 3), (32, 4, 4, 6))
    teacher = np.maximum(teacher, 0.0)
    loss = make("factor_transfer", k=1.0)
    parts = loss.build(Given(((4, 4, 3),), ((4, 4, 6),)))
    optimizer = keras.optimizers.Adam(0.01)
    variables = parts.trainable_variables
    optimizer.build(variables)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            value = mean(loss, student=student, teacher=teacher, parts=parts)
        optimizer.apply(tape.gradient(value, [variable.value for variable in variables]), variables)
        return value

    def error():
        flow = teacher
        for layer in parts.trained["encoders"][0] + parts.trained["decoders"][0]:
            flow = layer(flow)
        return float(np.mean(np.square(flow - teacher)))

    before, first = error(), float(step())
    for _ in range(60):
        last = float(step())
    assert error() < 0.5 * before
    assert last < first


@pytest.mark.parametrize("p1", [1, 2, 3])
def test_a_map_of_zeros_has_a_finite_gradient(p1):
    import tensorflow as tf

    student, teacher = tf.zeros((2, 3, 3, 2)), maps((2, 3, 3, 2))[0]
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = make("factor_transfer", p1=p1)(student=student, teacher=teacher)
    assert np.isfinite(value).all()
    assert np.abs(tape.gradient(value, student)).max() < 10
