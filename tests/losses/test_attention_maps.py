"""Attention maps against the published code: TextBrewer's `att_mse_loss`, `att_ce_loss`, and both over heads."""

from __future__ import annotations

import numpy as np
import pytest
from published import Case, mean

from kdcli.errors import UsageError
from kdcli.losses import make

# Case: the options that it is, and whether it has a mask.
CASES = {
    0: {"distance": "mse"},
    2: {"distance": "mse", "merge": "sum"},
    4: {"distance": "cross_entropy"},
    6: {"distance": "cross_entropy", "merge": "mean"},
}


def scores(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def softmax(values):
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(("number", "options"), CASES.items(), ids=str)
def test_agrees_with_the_published_code(number, options, dtype):
    case = Case("textbrewer", number, dtype, "attention_maps")
    loss = make("attention_maps", **options)
    case.check(lambda student: mean(loss, student=student, teacher=case["teacher"]))


@pytest.mark.parametrize("merge", ["none", "mean", "sum"])
def test_masked_squares_cover_unmasked_pairs_of_tokens(merge):
    student, teacher = scores(3, 2, 4, 4), scores(3, 2, 4, 4, seed=1)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    merged = {
        "none": lambda m: m,
        "mean": lambda m: m.mean(1, keepdims=True),
        "sum": lambda m: m.sum(1, keepdims=True),
    }
    ours, theirs = merged[merge](student), merged[merge](teacher)
    squares = np.square(ours - theirs) * mask[:, None, :, None] * mask[:, None, None, :]
    wanted = squares.sum() / (ours.shape[1] * np.square(mask.sum(axis=1)).sum())
    found = make("attention_maps", merge=merge)(student=student, teacher=teacher, mask=mask)
    assert np.mean(found) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("merge", ["none", "mean"])
def test_masked_entropy_covers_unmasked_queries_and_keys(merge):
    student, teacher = scores(3, 2, 4, 4), scores(3, 2, 4, 4, seed=1)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    ours, theirs = (side.mean(1, keepdims=True) if merge == "mean" else side for side in (student, teacher))
    terms = softmax(theirs) * np.log(softmax(ours)) * mask[:, None, :, None] * mask[:, None, None, :]
    wanted = -terms.sum() / (ours.shape[1] * mask.sum())
    loss = make("attention_maps", distance="cross_entropy", merge=merge)
    assert np.mean(loss(student=student, teacher=teacher, mask=mask)) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("distance", ["mse", "cross_entropy"])
def test_different_numbers_of_heads_are_averaged_first(distance):
    student, teacher = scores(2, 2, 4, 4), scores(2, 6, 4, 4, seed=1)
    found = make("attention_maps", distance=distance)(student=student, teacher=teacher).numpy()
    loss = make("attention_maps", distance=distance, merge="none")
    wanted = loss(student=student.mean(1, keepdims=True), teacher=teacher.mean(1, keepdims=True)).numpy()
    assert found == pytest.approx(wanted, rel=1e-10)


def test_probabilities_give_the_cross_entropy_of_the_scores_behind_them():
    # Without scores that the published code would take for masked ones.
    student, teacher = np.abs(scores(2, 3, 4, 4)), np.abs(scores(2, 3, 4, 4, seed=1))
    wanted = make("attention_maps", distance="cross_entropy")(student=student, teacher=teacher).numpy()
    loss = make("attention_maps", distance="cross_entropy", given="probabilities")
    found = loss(student=softmax(student), teacher=softmax(teacher)).numpy()
    assert found == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("given", ["scores", "probabilities"])
@pytest.mark.parametrize("distance", ["mse", "cross_entropy"])
def test_masked_keys_have_no_gradient_and_stay_finite(distance, given):
    import tensorflow as tf

    student, teacher = scores(2, 2, 4, 4), scores(2, 2, 4, 4, seed=1)
    student[..., 3] = teacher[..., 3] = -1e9
    watched = tf.constant(student)
    mask = np.array([[1, 1, 1, 0]] * 2)
    for counted in (None, mask):
        with tf.GradientTape() as tape:
            tape.watch(watched)
            side = tf.nn.softmax(watched) if given == "probabilities" else watched
            target = softmax(teacher) if given == "probabilities" else teacher
            loss = make("attention_maps", distance=distance, given=given)
            value = mean(loss, student=side, teacher=target, mask=counted)
        slope = tape.gradient(value, watched).numpy()
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
        assert np.abs(slope[..., 3]).max() < 1e-12
        assert np.abs(slope[..., :3]).max() > 1e-3


def test_equal_maps_have_no_squared_error_and_no_gradient():
    import tensorflow as tf

    watched = tf.constant(scores(2, 3, 4, 4))
    with tf.GradientTape() as tape:
        tape.watch(watched)
        value = make("attention_maps")(student=watched, teacher=watched)
    assert value.numpy().tolist() == [0.0, 0.0]
    assert not tape.gradient(value, watched).numpy().any()


def test_a_sum_of_probabilities_is_refused():
    with pytest.raises(UsageError, match="use merge: mean"):
        make("attention_maps", distance="cross_entropy", given="probabilities", merge="sum")


@pytest.mark.parametrize(("ours", "options"), [((2, 3, 5, 4), {}), ((2, 2, 4, 4), {"merge": "none"})])
def test_other_sizes_are_refused(ours, options):
    with pytest.raises(
        ValueError, match="the numbers of queries and keys must be equal, and with merge: none also those of heads"
    ):
        make("attention_maps", **options)(student=scores(*ours), teacher=scores(2, 3, 4, 4))
