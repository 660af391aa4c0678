"""Feature overhaul against the published code, mdistiller's `OFD`; its weight of 0.001 is the term's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from published import Case, mean

from kdcli.loss import Given
from kdcli.losses import make
from kdcli.losses.feature_overhaul import compute_margins


def built(loss, students, teachers, normalizations):
    shapes = ([tuple(feature.shape[1:]) for feature in side] for side in (students, teachers))
    return loss.build(Given(*map(tuple, shapes), normalizations=tuple(normalizations)))


@pytest.mark.parametrize("number", [0, 2])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("ofd", number, dtype, "feature_overhaul")
    loss, teachers = make("feature_overhaul", kernel_size=int(case.hyper("kernel_size"))), case.several("teacher")
    places = range(len(teachers))
    known = [(case[f"teacher_bn_gamma{place}"], case[f"teacher_bn_beta{place}"]) for place in places]
    parts = built(loss, case.several("student"), teachers, known)
    weights = {}
    for place, (convolution, normalization) in enumerate(parts.trained["connectors"]):
        stem = f"connectors_connectors_{place}"
        weights |= {
            f"w_conv_{stem}_0": convolution.kernel,
            f"w_gamma_{stem}_1": normalization.gamma,
            f"w_beta_{stem}_1": normalization.beta,
        }
        np.testing.assert_array_equal(parts.kept["margins"][place].numpy(), case.arrays[f"margin{place}"])
    names = [f"student{place}" for place in places]
    case.check(
        lambda *students: mean(loss, student=list(students), teacher=teachers, parts=parts),
        inputs=names,
        **weights,
    )


def test_margin_is_the_mean_of_negative_values():
    scale, shift = np.array([1.0, -2.0, 0.5, 1.0]), np.array([0.0, 1.0, -1.0, 2.5])
    draws = np.random.default_rng(0).normal(size=400_000)
    for found, deviation, centre in zip(compute_margins(scale, shift), scale, shift, strict=True):
        drawn = centre + abs(deviation) * draws
        assert found == pytest.approx(drawn[drawn < 0].mean(), abs=0.01)


def test_margins_of_channels_with_rare_negative_values():
    assert compute_margins([1.0, 0.5, 0.0, 0.0], [4.0, 2.0, 1.0, -1.0]) == [-3.0, -1.5, 0.0, -1.0]
    # The chance falls below 0.001 at 3.09 deviations.
    before, after = compute_margins([1.0, 1.0], [3.09, 3.091])
    assert before == pytest.approx(-0.28, abs=0.01)
    assert after == -3.0
    assert math.isfinite(compute_margins([1e-30], [1.0])[0])


@pytest.mark.parametrize(("ours", "theirs"), [((6, 6), (3, 3)), ((3, 3), (6, 6)), ((4, 4), (3, 5))])
def test_the_teacher_is_averaged_to_the_students_size(ours, theirs):
    from kdcli.formulas.map_sizes import average_pool

    random = np.random.default_rng(0)
    student = random.normal(size=(2, *ours, 3)).astype("float32")
    teacher = random.normal(size=(2, *theirs, 4)).astype("float32")
    loss = make("feature_overhaul")
    parts = built(loss, [student], [teacher], [(np.ones(4), np.zeros(4))])
    feature = student
    for layer in parts.trained["connectors"][0]:
        feature = layer(feature, training=True)
    margin = -math.sqrt(2 / math.pi)
    target = average_pool(teacher, ours).numpy()
    error = np.asarray(feature) - np.maximum(target, margin)
    wanted = np.sum(np.square(np.where(target > 0, error, np.maximum(error, 0))), axis=(1, 2, 3))
    found = loss(student=student, teacher=teacher, parts=parts).numpy()
    assert found == pytest.approx(wanted, rel=1e-5)


def test_deeper_pairs_count_more():
    random = np.random.default_rng(0)
    students = [random.normal(size=(4, 3, 3, 2)).astype("float32") for _ in range(2)]
    teachers = [random.normal(size=(4, 3, 3, 2)).astype("float32") for _ in range(2)]
    known = [(np.ones(2), np.zeros(2))] * 2
    loss = make("feature_overhaul")
    parts = built(loss, students, teachers, known)
    alone = []
    for place in range(2):
        one = built(loss, students[:1], teachers[:1], known[:1])
        for layer, other in zip(one.trained["connectors"][0], parts.trained["connectors"][place], strict=True):
            layer.set_weights(other.get_weights())
        alone.append(loss(student=students[place], teacher=teachers[place], parts=one).numpy())
    found = loss(student=students, teacher=teachers, parts=parts).numpy()
    assert found == pytest.approx(alone[0] / 2 + alone[1], rel=1e-5)


@pytest.mark.parametrize("known", [(), (None,), ((np.ones(2), np.zeros(2)),) * 2])
def test_a_direct_call_needs_the_normalizations(known):
    with pytest.raises(ValueError, match=r"normalizations=\[\(scale, shift\), \.\.\.\]\), one for each"):
        make("feature_overhaul").build(Given(((2, 2, 2),), ((2, 2, 2),), normalizations=known))
    with pytest.raises(ValueError, match="needs its parts"):
        make("feature_overhaul")(student=np.zeros((1, 2), "float32"), teacher=np.zeros((1, 2), "float32"))


def test_margins_are_stored_and_not_trained():
    parts = make("feature_overhaul").build(Given(((2,),), ((2,),), normalizations=((np.ones(2), np.zeros(2)),)))
    (margin,) = parts.kept["margins"]
    assert any(margin is variable for variable in parts.variables)
    assert not any(margin is variable for variable in parts.trainable_variables)
