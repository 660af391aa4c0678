"""Singular vectors against the published code.

Left out: c2, where mdistiller takes a map apart along its width, which is another loss.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy_formulas import check, draw, gradients
from published import Case, mean

from kdcli.losses import make


def taken_apart(feature, count, signs):
    """Singular values of length 1 together, and right singular vectors, (batch, channels, count)."""
    matrix = feature.reshape(len(feature), -1, feature.shape[-1])
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    vectors, values = vectors[:, :count].swapaxes(1, 2), values[:, :count]
    if signs == "largest":
        peaks = np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1)
        vectors = vectors * np.sign(peaks)
    return values / np.linalg.norm(values, axis=1, keepdims=True), vectors


def formula_of(loss):
    def flows(layers):
        return [np.exp(-((a[:, :, None] - b[:, None]) ** 2) / 8) for a, b in pairwise(layers)]

    def formula(student, teacher):
        ours, theirs = [], []
        for feature, target in zip(student, teacher, strict=True):
            values, wanted = taken_apart(target, loss.k, loss.signs)
            _, found = taken_apart(feature, loss.k + 3, loss.signs)
            aligned = np.empty_like(wanted)
            for example in range(len(found)):
                for place in range(loss.k):
                    cosines = found[example].T @ wanted[example, :, place]
                    best = np.abs(cosines).argmax()
                    aligned[example, :, place] = np.sign(cosines[best]) * found[example, :, best]
            ours.append(aligned * values[:, None])
            theirs.append(wanted * values[:, None])
        squares = [(a - b) ** 2 for a, b in zip(flows(ours), flows(theirs), strict=True)]
        return sum(each.sum() for each in squares) / len(student[0])

    return formula


def test_agrees_with_the_published_code(dtype):
    case = Case("kdsvd", 0, dtype, "singular_vectors")
    teacher = case.several("teacher")
    for number, target in enumerate(teacher):
        _, vectors = taken_apart(target.numpy().astype("float64"), 1, "lapack")
        if (vectors * case.arrays[f"teacher_v{number}"]).sum(1).min() < 0:
            pytest.skip("the LAPACK here gives other signs than the one behind the reference values")
    loss = make("singular_vectors")
    case.check(
        lambda *student: mean(loss, student=list(student), teacher=teacher), inputs=("student0", "student1")
    )


@pytest.mark.parametrize("signs", ["lapack", "largest"])
@pytest.mark.parametrize("k", [1, 2])
def test_several_layers_with_more_and_with_fewer_positions_than_channels(k, signs):
    loss = make("singular_vectors", k=k, signs=signs)
    student = draw((2, 4, 4, 5), (2, 3, 2, 6), (2, 2, 1, 7))
    teacher = draw((2, 5, 5, 5), (2, 4, 4, 6), (2, 2, 2, 7), seed=1)
    check(loss, formula_of(loss), student, teacher)


def test_it_is_the_same_in_a_compiled_step():
    import tensorflow as tf

    student, teacher = draw((3, 4, 4, 5), (3, 2, 3, 6)), draw((3, 4, 4, 5), (3, 2, 3, 6), seed=1)
    loss = make("singular_vectors")
    compiled = tf.function(lambda s, t: loss(student=s, teacher=t), autograph=False)
    assert compiled(student, teacher).numpy() == pytest.approx(loss(student=student, teacher=teacher).numpy())


@pytest.mark.parametrize("shape", [(2, 3, 3, 4), (2, 1, 3, 5)])
def test_equal_singular_values_have_a_finite_gradient(shape):
    (teacher,) = draw(shape, seed=1)
    positions = shape[1] * shape[2]
    same = np.broadcast_to(np.eye(positions, shape[-1]).reshape(shape[1:]), shape).copy()
    for student in (same, np.zeros(shape), np.ones(shape)):
        value, slopes = gradients(make("singular_vectors", k=2), [student] * 2, [teacher] * 2)
        assert np.isfinite(value)
        assert all(np.abs(slope).max() < 1e3 for slope in slopes)


def test_nan_output_gives_a_nan_loss():
    student, teacher = draw((2, 3, 3, 4), (2, 3, 3, 4))
    teacher[0, 0, 0, 0] = np.nan
    value = make("singular_vectors")(student=[student] * 2, teacher=[teacher] * 2)
    assert np.isnan(value.numpy()).any()


def test_too_many_vectors_and_different_channels_are_refused():
    layer = np.ones((2, 2, 1, 3))
    with pytest.raises(
        ValueError, match=r"k: a feature of shape \(2, 1, 3\) has 2 singular vectors \(got k=3; expected"
    ):
        make("singular_vectors", k=3)(student=[layer] * 2, teacher=[layer] * 2)
    with pytest.raises(ValueError, match="have different numbers of channels"):
        make("singular_vectors")(student=[layer] * 2, teacher=[layer, layer[..., :2]])
