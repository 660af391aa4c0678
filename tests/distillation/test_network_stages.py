"""The ends of a network's stages, their pairs, and the architecture of a network."""

from __future__ import annotations

import keras
import pytest
from four_networks import BUILDS, network, small

from kdcli.distillation.network_stages import (
    Feature,
    align_stages,
    find_last_features,
    find_stage_ends,
    pair_evenly,
)
from kdcli.loss import FeatureLoss
from kdcli.models.keras.network import KerasNetwork
from kdcli.zoo import Mlp


class BeforeActivation(FeatureLoss):
    before_activation = True
    kind: str = "before"


class Normalized(BeforeActivation):
    needs_normalization = True


class Scores(FeatureLoss):
    attention_scores = True
    kind: str = "scores"


def names(given, rank, loss=None):
    return [stage.tap for stage in find_stage_ends(given, loss).get(rank, ())]


@pytest.mark.parametrize(
    ("name", "rank", "found"),
    [
        ("cnn", 3, ["block1", "block2", "block3"]),
        ("residual", 3, ["stage1", "stage2", "stage3"]),
        ("depthwise", 3, ["block1", "block3", "block5"]),
        ("transformer", 2, ["block1", "block2", "block3"]),
    ],
)
def test_a_stage_ends_with_the_last_map_of_a_size_or_with_a_block(name, rank, found):
    given = small(name)
    assert names(given, rank) == found
    assert set(find_stage_ends(given)) == {rank, 1}
    depths = [feature.depth for feature in find_stage_ends(given)[rank]]
    assert depths == sorted(depths)


def test_patch_maps_and_inner_attention_tensors_are_excluded():
    last = find_last_features(small("transformer", dropout=0.1))
    assert {rank: stage.tap for rank, stage in last.items()} == {2: "normalization", 1: "pooling"}


@pytest.mark.parametrize(
    ("name", "rank", "linear", "normalized"),
    [
        ("cnn", 3, "block3_normalization", "block3_normalization"),
        ("residual", 3, "stage3_sum", "stage3_second_normalization"),
        ("depthwise", 3, "block5_pointwise_normalization", "block5_pointwise_normalization"),
        ("transformer", 2, "block3", "block3"),
    ],
)
def test_features_before_the_activation_are_selected(name, rank, linear, normalized):
    given = small(name)
    assert find_last_features(given, BeforeActivation())[rank].tap == linear
    assert find_last_features(given, Normalized())[rank].tap == normalized
    several = names(given, rank, BeforeActivation())
    assert several[-1] == linear
    assert len(several) == 3
    assert set(several) <= given.roles.linear


def test_activation_inside_a_layer_hides_the_feature_before_it():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, name="plain")(inputs)
    x = keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="activated")(x)
    given = network_of(inputs, x)
    assert given.roles.linear == {"plain", "dense"}
    assert find_last_features(given, BeforeActivation())[3].tap == "plain"


def network_of(inputs, x):
    x = keras.layers.Dense(3, name="dense")(keras.layers.Flatten()(x))
    return KerasNetwork(keras.Model(inputs, x), name="given")


def test_attention_scores_are_found_in_their_layer():
    scores = find_last_features(small("transformer", dropout=0.1), Scores())
    assert scores[3].shape == (2, 16, 16)
    assert scores[3].tap == "block3_attention/scores"
    assert find_last_features(small("transformer"), Scores())[3].tap == scores[3].tap
    assert find_last_features(small("cnn"), Scores()) == {}


def test_blocks_that_are_layers_are_found():
    @keras.saving.register_keras_serializable("test_stages")
    class Block(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.normalization = keras.layers.LayerNormalization()
            self.attention = keras.layers.MultiHeadAttention(2, 2)
            self.dense = keras.layers.Dense(4)

        def build(self, shape):
            self.normalization.build(shape)
            self.attention.build(shape, shape)
            self.dense.build(shape)

        def call(self, x):
            y = self.normalization(x)
            x = x + self.attention(y, y)
            return x + self.dense(x)

    inputs = keras.Input((9, 4))
    x = inputs
    for number in range(1, 6):
        x = Block(name=f"block{number}")(x)
    given = network_of(inputs, x)
    assert names(given, 2) == [f"block{number}" for number in range(1, 6)]
    assert given.architecture == "attention"


def test_shorter_sequences_start_a_new_stage():
    inputs = keras.Input((32, 2))
    x = inputs
    for number, steps in enumerate((1, 2, 2), start=1):
        x = keras.layers.Conv1D(4, 3, strides=steps, padding="same", name=f"first{number}")(x)
        x = keras.layers.Conv1D(4, 3, padding="same", name=f"second{number}")(x)
    assert names(network_of(inputs, x), 2) == ["second1", "second2", "second3"]


def test_stages_inside_nested_models_have_their_paths_or_the_name_of_the_model():
    body = [keras.Input((8, 8, 2))]
    body += [keras.layers.Conv2D(3, 3, strides=2, padding="same", name=name) for name in ("wide", "deep")]
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, padding="same", name="first")(inputs)
    x = keras.Sequential(body, name="body")(x)
    assert names(network_of(inputs, x), 3) == ["first", "body/wide", "body"]


def test_all_hidden_vectors_are_stages_but_flattened_inputs_are_not():
    given = network(Mlp(width=4).build((16, 16, 1), 3))
    assert names(given, 1) == ["hidden1", "hidden2"]


def stage(name, shape, depth):
    return Feature(name, shape, depth)


def maps(*sides):
    return [stage(f"s{side}", (side, side, 2), (place + 1) / len(sides)) for place, side in enumerate(sides)]


def paired(ours, theirs, fits=lambda one, other: True):
    return [(one.tap, other.tap) for one, other in align_stages(ours, theirs, fits)]


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        ((32, 16, 8), (32, 16, 8), [(32, 32), (16, 16), (8, 8)]),
        ((16, 8), (32, 16, 8, 4), [(16, 16), (8, 8)]),
        ((32, 8), (32, 16, 8), [(32, 32), (8, 8)]),
        ((16, 8, 4), (32, 16, 8), [(16, 32), (8, 16), (4, 8)]),
        ((7,), (28, 14, 7), [(7, 7)]),
    ],
)
def test_stages_of_the_same_size_are_paired_in_order(ours, theirs, pairs):
    assert paired(maps(*ours), maps(*theirs)) == [(f"s{one}", f"s{other}") for one, other in pairs]


def test_stages_that_do_not_fit_are_skipped():
    ours, theirs = maps(32, 16, 8), maps(32, 16, 8)
    assert paired(ours, theirs, lambda one, other: one.shape == other.shape != (16, 16, 2)) == [
        ("s32", "s32"),
        ("s8", "s8"),
    ]
    assert paired(ours, theirs, lambda one, other: False) == []
    assert paired([], theirs) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        (3, 12, [(1, 4), (2, 8), (3, 12)]),
        (4, 4, [(1, 1), (2, 2), (3, 3), (4, 4)]),
        (6, 12, [(2, 3), (3, 6), (4, 9), (6, 12)]),
    ],
)
def test_blocks_are_paired_at_equal_relative_depth(ours, theirs, pairs):
    sides = ([stage(n, (9, 4), n / count) for n in range(1, count + 1)] for count in (ours, theirs))
    assert [(one.tap, other.tap) for one, other in pair_evenly(*sides, 4)] == pairs


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("cnn", "plain convolutions"),
        ("residual", "plain convolutions with residual sums"),
        ("depthwise", "depthwise convolutions"),
        ("transformer", "attention"),
    ],
)
def test_architecture_of_a_network_is_named(name, architecture):
    assert set(BUILDS) == {"cnn", "residual", "depthwise", "transformer"}
    assert small(name).architecture == architecture


def test_recurrent_and_dense_networks_are_named():
    inputs = keras.Input((9, 2))
    assert network_of(inputs, keras.layers.GRU(3)(inputs)).architecture == "recurrence"
    assert network(Mlp(width=4).build((16, 16, 1), 3)).architecture == "dense layers"
