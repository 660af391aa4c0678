"""Flow of the solution procedure against the published code.

TextBrewer's `mmd_loss` is the flow of transposed states: each step is a channel, each number a position. Left
out: fsp c4, torchdistill's with maximum pooling and unsquared norms, which is another loss.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy_formulas import check, draw, match_sizes
from published import Case, mean

from kdcli.losses import make


@pytest.mark.parametrize("number", [0, 2])
def test_agrees_with_the_published_code(number, dtype):
    case = Case("fsp", number, dtype, "solution_flow")
    loss, teacher = make("solution_flow"), case.several("teacher")
    names = [f"student{place}" for place in range(len(teacher))]
    case.check(lambda *student: mean(loss, student=list(student), teacher=teacher), inputs=names)


def picked(layers, mask, row):
    """The steps of one example that count, as a batch of its own; our loss knows no mask."""
    import tensorflow as tf

    return [tf.boolean_mask(layer[row], mask[row])[None] for layer in layers]


def test_sequences_agree_with_the_published_code(dtype):
    import tensorflow as tf

    case = Case("textbrewer", 12, dtype, "solution_flow")
    loss, mask, teacher = make("solution_flow"), case.arrays["mask"] != 0, case.several("teacher")

    def formula(*student):
        sides = [(picked(student, mask, row), picked(teacher, mask, row)) for row in range(len(mask))]
        return tf.reduce_mean([mean(loss, student=ours, teacher=theirs) for ours, theirs in sides])

    case.check(formula, inputs=("student0", "student1"))


def test_similarity_of_steps_agrees_with_the_published_code(dtype):
    # The published mean is over all pairs of steps of the batch: an example counts by its length squared.
    import tensorflow as tf

    case = Case("textbrewer", 14, dtype, "solution_flow")
    loss, mask, teacher = make("solution_flow"), case.arrays["mask"] != 0, case.several("teacher")
    pairs = mask.sum(axis=1) ** 2

    def turned(layers, row):
        return [tf.transpose(layer, (0, 2, 1)) for layer in picked(layers, mask, row)]

    def formula(*student):
        found = [
            mean(loss, student=turned(student, row), teacher=turned(teacher, row)) for row in range(len(mask))
        ]
        return sum(share * value for share, value in zip(pairs / pairs.sum(), found, strict=True))

    case.check(formula, inputs=("student0", "student1"))


def test_several_layers_of_any_size():
    def flow(layer, following):
        layer, following = match_sizes(layer, following)
        sides = [side.reshape(len(side), -1, side.shape[-1]) for side in (layer, following)]
        return np.array([a.T @ b / len(a) for a, b in zip(*sides, strict=True)])

    def formula(student, teacher):
        return sum(
            ((flow(*student[place : place + 2]) - flow(*teacher[place : place + 2])) ** 2).mean()
            for place in range(len(student) - 1)
        )

    student = draw((2, 6, 8, 3), (2, 3, 4, 4), (2, 5, 2, 5))
    teacher = draw((2, 5, 5, 3), (2, 4, 4, 4), (2, 2, 2, 5), seed=1)
    check(make("solution_flow"), formula, student, teacher)


def test_one_layer_or_other_channels_are_refused():
    loss, layer = make("solution_flow"), np.ones((2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"needs at least 2 layers \(got 1\)"):
        loss(student=[layer], teacher=[layer])
    with pytest.raises(ValueError, match="2 student features but 1 teacher features"):
        loss(student=[layer, layer], teacher=[layer])
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 2\) have different numbers of channels"):
        loss(student=[layer, layer], teacher=[layer, layer[..., :2]])
