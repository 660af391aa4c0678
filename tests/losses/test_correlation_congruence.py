"""Correlation congruence against the published code.

Left out: c2 and c4, torchdistill's distance of kernel matrices, which is another loss.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import check, draw
from published import Case, mean

from kdcli.loss import NO_PARTS, Given
from kdcli.losses import make


def test_agrees_with_the_published_code(dtype):
    # The case's features are embedded already.
    case = Case("cc", 0, dtype, "correlation_congruence")
    loss = make("correlation_congruence", embed=0)
    case.check(lambda student: mean(loss, student=student, teacher=case["teacher"]))


@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
def test_both_sides_are_embedded_and_both_embeddings_learn(dtype):
    import tensorflow as tf

    loss, student, teacher = make("correlation_congruence", embed=4), draw((4, 2, 2, 3)), draw((4, 7), seed=1)
    parts = loss.build(Given(((2, 2, 3),), ((7,),)))
    (ours,), (theirs,) = parts.trained["students"], parts.trained["teachers"]
    kernels = [np.asarray(layer.kernel) for layer in (ours, theirs)]
    assert [kernel.shape for kernel in kernels] == [(12, 4), (7, 4)]

    def formula(student, teacher):
        sides = (student[0].reshape(4, -1) @ kernels[0], teacher[0] @ kernels[1])
        difference = np.abs(sides[0] - sides[1])
        return np.mean([difference[row] @ difference[row + 1] for row in range(3)])

    check(loss, formula, student, teacher, parts=parts)
    with tf.GradientTape() as tape:
        value = loss(student=tf.constant(student[0]), teacher=tf.constant(teacher[0]), parts=parts)
    watched = [variable.value for variable in parts.trainable_variables]
    assert len(watched) == 4
    assert all(np.asarray(slope).any() for slope in tape.gradient(value, watched))


def test_features_without_an_embedding_have_no_parts():
    assert make("correlation_congruence", embed=0).build(Given(((3,),), ((3,),))) is NO_PARTS


def test_error_without_parts_shows_how_to_build_them():
    with pytest.raises(ValueError, match=r"correlation_congruence needs its parts: parts=loss\.build"):
        make("correlation_congruence")(student=np.ones((2, 3)), teacher=np.ones((2, 3)))


def test_a_feature_of_unknown_size_is_refused():
    with pytest.raises(ValueError, match=r"a feature of shape \(None, 3\) has no fixed size to embed"):
        make("correlation_congruence").build(Given(((None, 3),), ((4, 3),)))
