"""Contrastive representation against the published code, and its memory."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from published import Case, mean

from kdcli.formulas.negatives import sample_negatives
from kdcli.loss import Given
from kdcli.losses import contrastive, make


def published(number, dtype):
    case = Case("crd", number, dtype, "contrastive")
    examples, embed = case.arrays["memory_v1"].shape
    options = {name: case.hyper(name) for name in ("tau", "momentum")}
    loss = make("contrastive", negatives=int(case.hyper("K")), embed=embed, **options)
    parts = loss.build(Given((case["student"].shape[1:],), (case["teacher"].shape[1:],), examples=examples))
    memory = parts.kept["memories"][0]
    memory["student"].assign(case.arrays["memory_v1"])
    memory["teacher"].assign(case.arrays["memory_v2"])
    known = case.arrays["hp_Z_in"] > 0
    if known.all():
        memory["log_constants"].assign(np.log(case.arrays["hp_Z_in"]))
        memory["known"].assign(1.0)
    if len(case["student"].shape) == 4:
        # The published code flattens with the channels first, so the rows of its kernel are in that order.
        channels, height, width = case.arrays["student"].shape[1:]
        rows = np.arange(channels * height * width).reshape(channels, height, width).transpose(1, 2, 0).ravel()
        for name in ("w_lin_s_kernel", "grad_w_lin_s_kernel"):
            if name in case.arrays:
                case.arrays[name] = case.arrays[name][rows]
            else:
                case.arrays[name] = case.arrays[name.removesuffix("_kernel")].T[rows]
    return case, loss, parts


@pytest.mark.parametrize("whole", [0, 16])
@pytest.mark.parametrize("number", [0, 2])
def test_agrees_with_the_published_code(number, whole, dtype, monkeypatch):
    monkeypatch.setattr(contrastive, "_EXAMPLES_PER_NEGATIVE", whole)
    case, loss, parts = published(number, dtype)
    ours, theirs = parts.trained["embeddings"][0]
    memory = parts.kept["memories"][0]
    given = {"teacher": case["teacher"], "index": case["idx"], "contrast": case["contrast_idx"], "parts": parts}

    def formula(student):
        return mean(loss, student=student, **given)

    weights = {"w_lin_s": ours.kernel, "w_bias_s": ours.bias, "w_lin_t": theirs.kernel, "w_bias_t": theirs.bias}
    case.check(formula, **weights)
    error = 1e-9 if dtype == "float64" else 1e-5
    for name, variable in (("memory_v1", memory["student"]), ("memory_v2", memory["teacher"])):
        np.testing.assert_allclose(variable, case.arrays[f"{name}_after"], atol=error)
    np.testing.assert_allclose(np.exp(memory["log_constants"]), case.arrays["Z_after"], rtol=error * 10)


EXAMPLES = 12


def built(seed=0, *, student=(6,), teacher=(2, 2, 3), examples=EXAMPLES, **options):
    loss = make("contrastive", **{"embed": 4, "negatives": 5, **options})
    keras.utils.set_random_seed(seed)
    return loss, loss.build(Given((student,), (teacher,), examples=examples, seed=seed))


def batch(index=(3, 1, 7), seed=0, student=(6,), teacher=(2, 2, 3)):
    random = np.random.default_rng(seed)
    shapes = ((len(index), *student), (len(index), *teacher))
    features = [tf.constant(random.normal(size=shape), tf.float32) for shape in shapes]
    return {"student": features[0], "teacher": features[1], "index": tf.constant(index, tf.int64)}


def test_two_steps_move_only_the_rows_of_their_examples():
    loss, parts = built()
    memory = parts.kept["memories"][0]
    before = {name: memory[name].numpy().copy() for name in ("student", "teacher")}
    step = tf.function(lambda **given: loss(**given, parts=parts), autograph=False)
    assert step(**batch((3, 1, 7))).shape == (3,)
    step(**batch((1, 0, 9), seed=1))
    for name, old in before.items():
        moved = np.flatnonzero((memory[name].numpy() != old).any(axis=1))
        assert moved.tolist() == [0, 1, 3, 7, 9]
        np.testing.assert_allclose(np.linalg.norm(memory[name].numpy()[moved], axis=1), 1, rtol=1e-6)


def test_the_constants_are_those_of_the_first_batch():
    loss, parts = built()
    memory = parts.kept["memories"][0]
    loss(**batch(), parts=parts)
    first = memory["log_constants"].numpy().copy()
    assert (first != 0).all() and memory["known"].numpy() == 1
    loss(**batch(seed=1), parts=parts)
    np.testing.assert_array_equal(memory["log_constants"], first)


def test_a_restored_state_gives_the_same_losses_to_the_last_bit():
    loss, parts = built()
    step = tf.function(lambda **given: loss(**given, parts=parts), autograph=False)
    step(**batch())
    kept = [variable.numpy().copy() for variable in parts.variables]
    wanted = [step(**batch(seed=seed)).numpy() for seed in (1, 2)]
    _, parts = built(seed=5)
    step = tf.function(lambda **given: loss(**given, parts=parts), autograph=False)
    for variable, value in zip(parts.variables, kept, strict=True):
        variable.assign(value)
    for seed, values in zip((1, 2), wanted, strict=True):
        np.testing.assert_array_equal(step(**batch(seed=seed)), values)


def drawn(loss, parts, index):
    places = sample_negatives(tf.constant(index), loss.negatives, examples=EXAMPLES, draws=parts.kept["draws"])
    return places.numpy()


def test_negatives_are_redrawn_and_never_the_example_itself():
    loss, parts = built(negatives=8)
    first, second = drawn(loss, parts, [3, 11]), drawn(loss, parts, [3, 11])
    assert first.shape == (2, 9)
    assert first[:, 0].tolist() == [3, 11]
    assert (first[:, 1:] != first[:, :1]).all()
    assert first.min() >= 0 and first.max() < EXAMPLES
    assert (first != second).any()
    many = np.concatenate([drawn(loss, parts, [3])[0, 1:] for _ in range(200)])
    counts = np.bincount(many, minlength=EXAMPLES)
    assert counts[3] == 0
    np.testing.assert_allclose(np.delete(counts, 3), 1600 / 11, rtol=0.35)


def test_the_seed_decides_memories_and_draws():
    (loss, one), (_, same), (_, other) = built(3), built(3), built(4)
    assert (drawn(loss, one, [3, 11]) == drawn(loss, same, [3, 11])).all()
    assert (drawn(loss, one, [3, 11]) != drawn(loss, other, [3, 11])).any()
    ours, theirs = (parts.kept["memories"][0]["student"].numpy() for parts in (one, other))
    assert (ours != theirs).any()
    assert (ours != one.kept["memories"][0]["teacher"].numpy()).all()
    assert np.abs(ours).max() <= np.sqrt(3 / 4)


@pytest.mark.parametrize("negatives", [11, 16384])
def test_negatives_are_limited_to_the_other_examples(negatives):
    loss, parts = built(negatives=negatives)
    for row, own in zip(drawn(loss, parts, [3, 11]), (3, 11), strict=True):
        assert row[0] == own
        assert sorted(row) == list(range(EXAMPLES))


def test_duplicate_example_is_stored_as_its_last_occurrence():
    loss, parts = built()
    memory = parts.kept["memories"][0]
    before = memory["student"].numpy().copy()
    given = batch((3, 7, 3))
    loss(**given, parts=parts)
    ours, _ = parts.trained["embeddings"][0]
    embedded = tf.linalg.normalize(ours(given["student"]), axis=-1)[0].numpy()
    expected = 0.5 * before[3] + 0.5 * embedded[2]
    np.testing.assert_allclose(memory["student"][3], expected / np.linalg.norm(expected), rtol=1e-5)


def test_both_computations_of_similarities_agree(monkeypatch):
    found = []
    for whole in (0, 16):
        monkeypatch.setattr(contrastive, "_EXAMPLES_PER_NEGATIVE", whole)
        loss, parts = built(negatives=6)
        given = batch()
        with tf.GradientTape() as tape:
            tape.watch(given["student"])
            value = loss(**given, parts=parts)
        found.append((value.numpy(), tape.gradient(value, given["student"]).numpy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e4, 1e30])
@pytest.mark.parametrize("tau", [0.07, 0.001])
def test_extreme_features_stay_finite(size, tau):
    loss, parts = built(tau=tau)
    given = batch()
    given = {**given, "student": size * given["student"], "teacher": size * given["teacher"]}
    variables = [variable.value for variable in parts.trainable_variables]
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(given["student"])
            value = loss(**given, parts=parts)
        slopes = tape.gradient(value, [given["student"], *variables])
        assert np.isfinite(value.numpy()).all()
        assert all(np.isfinite(slope.numpy()).all() for slope in slopes)


def test_the_teachers_feature_gets_no_gradient_and_its_embedding_does():
    loss, parts = built()
    given = batch()
    with tf.GradientTape() as tape:
        tape.watch(given["teacher"])
        value = loss(**given, parts=parts)
    _, theirs = parts.trained["embeddings"][0]
    feature, kernel = tape.gradient(value, [given["teacher"], theirs.kernel.value])
    assert feature is None
    assert np.abs(kernel.numpy()).max() > 0


def test_each_pair_has_its_own_memory_and_pairs_are_summed():
    loss = make("contrastive", embed=4, negatives=EXAMPLES)
    shapes = ((6,), (2, 2, 3))
    parts = loss.build(Given(shapes, shapes[::-1], examples=EXAMPLES))
    one, other = batch(), batch(seed=1, student=(2, 2, 3), teacher=(6,))
    kept = [variable.numpy().copy() for variable in parts.variables]
    both = loss(
        student=[one["student"], other["student"]],
        teacher=[one["teacher"], other["teacher"]],
        index=one["index"],
        parts=parts,
    )
    for variable, value in zip(parts.variables, kept, strict=True):
        variable.assign(value)
    alone = 0.0
    for number, given in enumerate((one, other)):
        part = type(parts)(
            {"embeddings": parts.trained["embeddings"][number : number + 1]},
            {"memories": parts.kept["memories"][number : number + 1], "draws": parts.kept["draws"]},
        )
        alone = alone + loss(**given, parts=part)
    np.testing.assert_allclose(both, alone, rtol=1e-6)


def test_negatives_are_drawn_unless_they_are_passed():
    (loss, parts), (_, same) = built(), built()
    given = batch()
    places = drawn(loss, same, given["index"].numpy().astype("int32"))
    expected = loss(**given, parts=parts).numpy()
    _, parts = built()
    state = parts.kept["draws"].state.numpy()
    np.testing.assert_array_equal(loss(**given, contrast=places, parts=parts), expected)
    np.testing.assert_array_equal(parts.kept["draws"].state, state)
    assert (loss(**given, contrast=(places + 1) % EXAMPLES, parts=built()[1]).numpy() != expected).all()


def test_missing_arguments_are_named():
    loss, parts = built()
    with pytest.raises(ValueError, match="contrastive needs index=, the memory index of each example"):
        loss(**{**batch(), "index": None}, parts=parts)
    with pytest.raises(ValueError, match="contrastive needs its parts"):
        loss(**batch())
