"""Students of any size from one model: importance, allocation, blocks, low rank, batch statistics."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from random_graphs import build_random_graph, draw_inputs, randomize

from kdcli.errors import ModelError, UsageError
from kdcli.shrinking import shrink
from kdcli.shrinking.allocation import choose_removed, round_count
from kdcli.shrinking.batch_statistics import measure_batch_statistics
from kdcli.shrinking.blocks import find_blocks, measure_changes, remove_blocks
from kdcli.shrinking.channels import trace_channels
from kdcli.shrinking.groups import Group, find_groups
from kdcli.shrinking.importance import rank_channels
from kdcli.shrinking.low_rank import split_dense_layers
from kdcli.shrinking.search import find_largest
from kdcli.shrinking.shrink import Shrinker
from kdcli.zoo.shrunk import IMPORTANCES, Shrunk


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype("float32")


def batches_of(examples, size=8):
    return lambda: (examples[start : start + size] for start in range(0, len(examples), size))


def build_plain():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="one", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="two")(x)
    return randomize(keras.Model(inputs, layers.Dense(3, name="three")(layers.GlobalAveragePooling2D()(x))))


def score(model, criterion, **options):
    channels = trace_channels(model)
    groups = find_groups(channels)
    return {
        group.name: scores
        for group, scores in zip(
            groups, rank_channels(channels, groups, criterion=criterion, **options), strict=True
        )
    }


def normalize(values):
    return values / values.mean()


def test_scores_of_weights_are_their_norms():
    model = build_plain()
    kernel = model.get_layer("one").kernel.numpy().reshape(-1, 6).T
    gamma = model.get_layer("norm").gamma.numpy()
    distances = np.array([sum(np.linalg.norm(a - b) for b in kernel) for a in kernel])
    expected = {
        "l1": np.abs(kernel).sum(1),
        "l2": np.linalg.norm(kernel, axis=1),
        "fpgm": distances,
        "bn_scale": np.abs(gamma),
    }
    for criterion, values in expected.items():
        np.testing.assert_allclose(score(model, criterion)["one"], normalize(values), rtol=1e-5)
    # Without batch normalization behind it, a layer is ranked by its weights.
    other = model.get_layer("two").kernel.numpy().reshape(-1, 4).T
    np.testing.assert_allclose(
        score(model, "bn_scale")["two"], normalize(np.linalg.norm(other, axis=1)), rtol=1e-5
    )


def test_activation_is_what_the_reader_receives(images):
    model = build_plain()
    received = keras.Model(model.inputs[0], model.get_layer("two").input)(images).numpy()
    expected = np.sqrt((np.abs(received).mean((1, 2)) ** 2).sum(0))
    found = score(model, "activation", batches=batches_of(images))["one"]
    np.testing.assert_allclose(found, normalize(expected), rtol=1e-4)


def test_taylor_is_the_squared_gradient_of_the_rows_that_read_a_channel(images):
    import tensorflow as tf

    model, seed = build_plain(), 3
    kernel = model.get_layer("two").kernel
    total = np.zeros(6)
    for number, batch in enumerate(batches_of(images)()):
        state = tf.stack([tf.constant(seed), tf.constant(number)])
        drawn = tf.random.stateless_categorical(model(batch), 1, state)[:, 0].numpy()
        for example, chosen in zip(batch, drawn, strict=True):
            with tf.GradientTape() as tape:
                logs = tf.nn.log_softmax(model(example[None]))[0, chosen]
            gradient = tape.gradient(logs, kernel.value).numpy()
            total += (gradient * kernel.numpy()).sum((0, 1, 3)) ** 2
    found = score(model, "taylor", batches=batches_of(images), seed=seed)["one"]
    np.testing.assert_allclose(found, normalize(total), rtol=1e-3)


@pytest.mark.parametrize("kind", ["probabilities", "sigmoid", "values"])
def test_taylor_needs_no_labels_for_any_kind_of_output(images, kind):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="one")(inputs)
    activation = {"probabilities": "softmax", "sigmoid": "sigmoid"}.get(kind, "linear")
    model = randomize(
        keras.Model(inputs, layers.Dense(3, activation=activation)(layers.GlobalAveragePooling2D()(x)))
    )
    found = score(model, "taylor", batches=batches_of(images), kind=kind)["one"]
    assert np.isfinite(found).all() and np.ptp(found) > 0


def test_a_dead_channel_goes_first(images):
    model = build_plain()
    for name in ("gamma", "beta"):
        value = getattr(model.get_layer("norm"), name)
        value.assign(np.where(np.arange(6) == 2, 0.0, value.numpy()))
    for criterion in ("activation", "taylor", "bn_scale"):
        found = score(model, criterion, batches=batches_of(images))["one"]
        assert found.argmin() == 2


def test_random_depends_on_the_seed_alone():
    model = build_plain()
    first, again, other = (score(model, "random", seed=seed)["one"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("wanted", "size", "width", "round_to", "expected"),
    [(8, 16, 1, 8, 8), (11.2, 16, 1, 8, 8), (12, 16, 1, 8, 16), (0.1, 16, 1, 8, 8), (2, 4, 1, 8, 4),
     (3, 6, 1, 1, 3), (2, 4, 4, 8, 2), (1.4, 4, 4, 8, 2), (16, 16, 1, 8, 16)],
)  # fmt: skip
def test_counts_are_rounded_to_multiples(wanted, size, width, round_to, expected):
    group = Group(("layer",), np.arange(size), width, size * width)
    assert round_count(wanted, group, round_to) == expected


def test_a_uniform_allocation_keeps_the_best_of_each_layer_and_a_global_one_the_best_of_all():
    groups = [Group(("a",), np.arange(4), 1, 4), Group(("b",), np.arange(10, 14), 1, 4)]
    importance = [np.array([4.0, 1.0, 3.0, 2.0]), np.array([0.4, 0.1, 0.3, 0.2])]
    assert choose_removed(groups, importance, keep=0.5, round_to=1) == {1, 3, 11, 13}
    # A layer never vanishes.
    globally = choose_removed(groups, importance, keep=0.5, allocation="global", round_to=1)
    assert globally == {11, 12, 13}


def test_keep_counts_against_the_given_widths():
    groups = [Group(("a",), np.arange(6), 1, 6)]
    removed = choose_removed(groups, [np.arange(6.0)], keep=0.5, round_to=1, widths={"a": 8})
    assert removed == {0, 1}


def build_residual():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    for number, scale in enumerate([1.0, 0.01, 0.3]):
        y = layers.Conv2D(8, 3, padding="same", name=f"inner{number}")(layers.ReLU()(x))
        y = layers.Rescaling(scale)(y)
        x = layers.Add(name=f"sum{number}")([y, x]) if number < 2 else x + y
    # A sum of two branches is not a block, nor is one whose inside is used elsewhere.
    inside = layers.Conv2D(8, 1, name="used_twice")(x)
    x = layers.Add(name="no_block")([layers.Conv2D(8, 1)(x), layers.Add(name="leaky")([inside, x])])
    x = layers.Concatenate()([x, inside])
    return randomize(keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))))


def test_blocks_are_found_ranked_by_their_change_and_left_out(images):
    model = build_residual()
    blocks = measure_changes(model, find_blocks(model), batches_of(images))
    assert [set(block.layers) & {"inner0", "inner1", "inner2"} for block in blocks] == [
        {"inner1"}, {"inner2"}, {"inner0"}
    ]  # fmt: skip
    first = blocks[0]
    taken, given = (
        keras.Model(model.inputs[0], tensor)(images).numpy().reshape(len(images), -1).astype(np.float64)
        for tensor in (model.get_layer("sum1").input[1], model.get_layer("sum1").output)
    )
    cosines = (taken * given).sum(1) / np.linalg.norm(taken, axis=1) / np.linalg.norm(given, axis=1)
    assert first.change == pytest.approx(1 - cosines.mean(), abs=1e-5)
    without = remove_blocks(model, [first])
    names = {layer.name for layer in without.layers}
    assert not names & {"inner1", "sum1"} and "inner0" in names
    # The same model with a block that adds nothing.
    inner = model.get_layer("inner1")
    inner.set_weights([np.zeros_like(value) for value in inner.get_weights()])
    np.testing.assert_allclose(without(images).numpy(), model(images).numpy(), atol=1e-5)


def test_every_application_with_residual_blocks_has_some():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=3)
    assert len(find_blocks(model)) == 10


def test_a_block_inside_a_nested_model_can_be_left_out(images):
    inside = keras.Input((8, 8, 3))
    y = layers.Add(name="sum")([layers.Conv2D(3, 3, padding="same")(inside), inside])
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.Model(inside, y, name="body"), layers.Flatten()])
    outer = keras.Model(model.inputs[0], model.get_layer("body")(model.inputs[0]))
    blocks = find_blocks(outer)
    assert [block.name for block in blocks] == ["body/sum"]
    assert [block.name for block in find_blocks(model)] == ["body/sum"]
    assert remove_blocks(model, find_blocks(model)).count_params() == 0
    np.testing.assert_array_equal(remove_blocks(outer, blocks)(images).numpy(), images)


def test_a_dense_layer_is_split_by_its_singular_values():
    inputs = keras.Input((20,))
    x = layers.Dense(12, activation="relu", name="large")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(3, name="small")(x)))
    smaller, splits = split_dense_layers(model, 4)
    assert [split.path for split in splits] == [("large",)]
    kernel, bias = model.get_layer("large").get_weights()
    left, values, right = np.linalg.svd(kernel.astype(np.float64))
    best = (left[:, :4] * values[:4]) @ right[:4]
    assert splits[0].energy == pytest.approx((values[:4] ** 2).sum() / (values**2).sum())
    x = np.random.default_rng(0).normal(size=(5, 20)).astype("float32")
    expected = model.get_layer("small")(np.maximum(x @ best + bias, 0).astype("float32"))
    np.testing.assert_allclose(smaller(x).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert smaller.count_params() == model.count_params() - 20 * 12 + 4 * (20 + 12)
    # At full rank nothing is saved, so nothing is split.
    assert split_dense_layers(model, 12)[1] == []


def test_batch_statistics_are_those_of_the_examples(images):
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="first")(layers.Conv2D(4, 3)(inputs))
    x = layers.Dropout(0.5)(layers.ReLU()(x))
    model = randomize(keras.Model(inputs, layers.BatchNormalization(name="second")(layers.Dense(2)(x))))
    assert measure_batch_statistics(model, batches_of(images, 24)) == 2
    first, second = model.get_layer("first"), model.get_layer("second")
    before = keras.Model(model.inputs[0], first.input)(images).numpy().astype(np.float64)
    np.testing.assert_allclose(first.moving_mean.numpy(), before.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first.moving_variance.numpy(), before.var((0, 1, 2)), rtol=1e-4)
    # The second follows the first with its new statistics.
    after = keras.Model(model.inputs[0], second.input)(images).numpy().astype(np.float64)
    np.testing.assert_allclose(second.moving_mean.numpy(), after.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(second.moving_variance.numpy(), after.var((0, 1, 2)), rtol=2e-2)


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_every_criterion_builds_a_student(images, importance, allocation):
    settings = Shrunk(keep=0.5, importance=importance, allocation=allocation, round_to=1)
    shrinker = Shrinker(build_plain(), settings, batches=batches_of(images))
    student = shrinker.build(0.5)
    assert student.model.count_params() == shrinker.count_parameters(0.5) < shrinker.count_parameters(1.0)
    if allocation == "uniform":
        assert [(one.name, one.before, one.after) for one in student.layers] == [
            ("one", 6, 3), ("two", 4, 2), ("three", 3, 3)
        ]  # fmt: skip
    assert [layer.frozen for layer in student.layers] == [False, False, True]
    assert student.model(images).shape == (24, 3)


def test_a_student_that_computes_something_else_is_refused(images, monkeypatch):
    from kdcli.shrinking.rules import convolution

    def wrong(call):
        vector = call.make(call.layer.filters)
        call.bind(call.layer.kernel, -1, vector, "makes")
        call.edit_count("filters", vector)
        # Forgets that the bias belongs to the same channels, and reads its input in the reverse order.
        call.bind(call.layer.bias, 0, vector[::-1].copy(), "follows")
        call.bind(call.layer.kernel, -2, call.input.axes[-1], "reads")
        return convolution.replace_channels(call, vector)

    monkeypatch.setitem(shrink.trace_channels.__globals__, "_trace_call", lambda call: _trace(call, wrong))
    with pytest.raises(ModelError, match="the smaller model differs from what it must compute") as caught:
        Shrinker(build_plain(), Shrunk(keep=0.5, round_to=1), batches=batches_of(images)).build(0.5)
    assert caught.value.exit_code == 4


def _trace(call, wrong):
    from kdcli.shrinking.rules import find_rule

    return wrong(call) if call.name == "two" else find_rule(call.layer)(call)


def test_settings_that_need_examples_are_refused_without_them():
    with pytest.raises(UsageError, match="importance activation is measured on examples"):
        Shrinker(build_plain(), Shrunk())
    with pytest.raises(UsageError, match="blocks are ranked by how much they change examples"):
        Shrinker(build_residual(), Shrunk(importance="l2", blocks=1))


def test_more_blocks_than_there_are_are_refused(images):
    with pytest.raises(UsageError, match="blocks is 9, but 3 residual blocks can be left out"):
        Shrinker(build_residual(), Shrunk(blocks=9), batches=batches_of(images))


def test_the_largest_fraction_that_fits_is_found():
    tried = []

    def fits(keep):
        tried.append(keep)
        return keep <= 0.37

    found = find_largest(fits, explain=lambda keep: UsageError("never"))
    assert found <= 0.37 < found + 1 / 256
    assert len(tried) < 12
    with pytest.raises(UsageError, match="smallest is"):
        find_largest(lambda keep: False, explain=lambda keep: UsageError(f"smallest is {keep}"))


def test_the_teacher_is_not_changed(images):
    model = build_plain()
    before = [value.copy() for value in model.get_weights()]
    Shrinker(model, Shrunk(keep=0.5, importance="taylor"), batches=batches_of(images)).build(0.5)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all("call" not in vars(layer) for layer in model.layers)


@pytest.mark.parametrize("importance", ["activation", "taylor"])
@pytest.mark.parametrize("seed", range(8))
def test_random_graphs_are_ranked_on_examples(seed, importance):
    model = build_random_graph(seed)
    examples = draw_inputs(model, 8)
    shrinker = Shrinker(model, Shrunk(importance=importance, round_to=1), batches=lambda: iter([examples]))
    student = shrinker.build(0.5)
    assert all(np.isfinite(scores).all() for scores in shrinker.importance)
    assert student.model.count_params() < model.count_params() or not shrinker.groups


def test_statistics_of_the_data_are_copied(images):
    normalization = layers.Normalization(name="data")
    normalization.adapt(images * 3 + 1)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="one")(normalization(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    shrinker = Shrinker(model, Shrunk(round_to=1, importance="l2"), batches=batches_of(images))
    whole = shrinker.build(1.0).model
    np.testing.assert_allclose(whole(images).numpy(), model(images).numpy(), rtol=1e-5, atol=1e-6)
    shrinker.build(0.5)


def test_what_the_configuration_does_not_say_is_noticed(images):
    @keras.saving.register_keras_serializable("test")
    class Forgetful(layers.Layer):
        """Does not save its factor."""

        factor = 1.0

        def call(self, inputs):
            return self.factor * inputs

    inputs = keras.Input((8, 8, 3))
    layer = Forgetful()
    layer.factor = 2.0
    x = layers.Conv2D(8, 3)(layer(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(ModelError, match="a copy made from the configuration of the model differs"):
        Shrinker(model, Shrunk(round_to=1), batches=batches_of(images)).build(0.5)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_chain_counts_the_channels_of_the_first_model(images, allocation):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(32, 3, activation="relu", name="one")(inputs)
    x = layers.Conv2D(32, 3, activation="relu", name="two")(x)
    first = randomize(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    settings = Shrunk(round_to=1, allocation=allocation)
    widths = shrink.read_widths(first)
    before = Shrinker(first, settings, batches=batches_of(images)).build(0.75).model
    after = Shrinker(before, settings, batches=batches_of(images), widths=widths).build(0.5)
    counts = {layer.name: layer.after for layer in after.layers}
    assert counts["one"] + counts["two"] == 32


def test_channels_that_meet_in_a_concatenation_are_removed_in_any_order():
    for swap in (False, True):
        inputs = keras.Input((8,))
        wide = layers.Dense(16, name="wide")(inputs) if not swap else None
        parts = [layers.Dense(8, name=name)(inputs) for name in ("left", "right")]
        wide = layers.Dense(16, name="wide")(inputs) if swap else wide
        x = layers.Add()([wide, layers.Concatenate()(parts)])
        model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
        student = Shrinker(model, Shrunk(importance="l2", round_to=1)).build(0.5)
        counts = {layer.name: layer.after for layer in student.layers}
        assert [counts[name] for name in ("wide", "left", "right")] == [8, 4, 4]


def test_blocks_that_follow_each_other_are_left_out_in_any_order(images):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    for number in range(3):
        x = layers.Add(name=f"sum{number}")([x, layers.Conv2D(4, 3, padding="same", name=f"in{number}")(x)])
    model = randomize(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
    blocks = find_blocks(model)
    for order in ([0, 1], [1, 0], [2, 0, 1], [0, 1, 2]):
        without = remove_blocks(model, [blocks[number] for number in order])
        x = model.get_layer("stem")(images)
        for number in {0, 1, 2} - set(order):
            x = x + model.get_layer(f"in{number}")(x)
        np.testing.assert_allclose(without(images).numpy(), x.numpy().mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_taylor_follows_the_output_and_a_single_logit(images):
    inputs = keras.Input((8, 8, 3))
    heads = []
    for name in ("left", "right"):
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, name=name)(inputs))
        heads.append(layers.Dense(1, name=f"{name}_head")(x))
    model = randomize(keras.Model(inputs, heads))
    for output, name in enumerate(("left", "right")):
        found = score(model, "taylor", batches=batches_of(images), output=output)
        weights = score(model, "l2")
        assert not np.allclose(found[name], weights[name])


def test_outputs_that_depend_on_no_channel_are_refused(images):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3)(inputs)
    out = layers.Dense(3, kernel_initializer="zeros")(layers.GlobalAveragePooling2D()(x))
    with pytest.raises(UsageError, match="the outputs do not depend on any channel"):
        Shrinker(keras.Model(inputs, out), Shrunk(importance="taylor"), batches=batches_of(images)).build(0.5)


def test_a_layer_called_by_keyword_is_read_and_split(images):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="one")(inputs)
    x = layers.Dense(12, name="two")(inputs=layers.Flatten()(x))
    model = randomize(keras.Model(inputs, layers.Dense(3)(x)))
    settings = Shrunk(round_to=1, rank=2)
    student = Shrinker(model, settings, batches=batches_of(images)).build(0.5)
    assert [split.path for split in student.splits] == [("two",)]


def test_a_split_model_is_split_no_further():
    inputs = keras.Input((32,))
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Dense(32, name="large")(inputs))))
    once, _ = split_dense_layers(model, 8)
    again, splits = split_dense_layers(once, 4)
    assert splits == [] and again is once
    student = Shrinker(once, Shrunk(importance="l2", round_to=1)).build(0.5)
    assert {one.name: one.after for one in student.layers}["large_low_rank"] == 8


def test_heads_are_not_rounded_to_multiples():
    inputs = keras.Input((5, 16))
    x = layers.MultiHeadAttention(8, 2, name="attend")(inputs, inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
    student = Shrinker(model, Shrunk(importance="l2")).build(0.5)
    assert {one.name: one.after for one in student.layers}["attend heads"] == 4


def test_a_fixed_batch_size_is_kept():
    inputs = keras.Input((6, 4), batch_size=3)
    x = layers.Dense(8)(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2)(keras.ops.reshape(x, (3, 48)))))
    Shrinker(model, Shrunk(importance="l2", round_to=1)).build(0.5)
    stateful = keras.Sequential(
        [keras.Input((6, 4), batch_size=3), layers.LSTM(8, stateful=True), layers.Dense(2)]
    )
    student = Shrinker(stateful, Shrunk(importance="l2", round_to=1)).build(0.5)
    assert student.unknown == ("lstm keeps its state between batches",) or len(student.unknown) == 1


def test_nothing_is_measured_again_if_nothing_is_removed(images):
    model = build_plain()
    student = Shrinker(model, Shrunk(), batches=batches_of(images)).build(1.0)
    assert student.statistics == 0
    np.testing.assert_array_equal(student.model(images).numpy(), model(images).numpy())
