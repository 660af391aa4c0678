"""Pairs of layers."""

from __future__ import annotations

import keras
import pytest

from kdcli.distillation import network_stages
from kdcli.distillation.pairing import Pair, pair_layers
from kdcli.errors import ModelError, UsageError
from kdcli.losses import make
from kdcli.models.keras.network import KerasNetwork
from kdcli.zoo import Cnn, Mlp


def network(model):
    return KerasNetwork(model, name="given")


def cnn(**options):
    return network(Cnn(width=2, **options).build((8, 8, 1), 3))


def mlp(**options):
    return network(Mlp(width=4, **options).build((8, 8, 1), 3))


def last_features(given):
    return {rank: stage.tap for rank, stage in network_stages.find_last_features(given).items()}


def paired(student=None, teacher=None, **options):
    return pair_layers(make("hint", **options), student=student or cnn(), teacher=teacher or cnn(blocks=4))


@pytest.mark.parametrize("options", [{}, {"dropout": 0.5}, {"convolutions": 2}])
def test_the_last_map_before_pooling_is_chosen(options):
    assert last_features(cnn(**options))[3] == "block3"


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_without_maps_the_last_hidden_vector_is_chosen(dropout):
    assert last_features(mlp(dropout=dropout)) == {1: "hidden2"}


def test_a_map_of_one_position_is_not_chosen():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(2, 3, name="map")(inputs)
    x = keras.layers.Conv2D(5, 6, name="point")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    assert last_features(network(model))[3] == "map"


def test_without_a_map_the_last_sequence_is_chosen():
    inputs = keras.Input((9, 2))
    x = keras.layers.Conv1D(4, 3, name="steps")(inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(4, name="vector")(x)))
    assert last_features(network(model)) == {2: "steps", 1: "vector"}


def test_the_logits_before_a_softmax_are_not_a_feature():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, name="hidden")(inputs)
    x = keras.layers.Softmax()(keras.layers.Dense(3, name="scores")(x))
    assert last_features(network(keras.Model(inputs, x))) == {1: "hidden"}


def test_a_vector_student_learns_from_the_pooled_vector_of_a_map_teacher():
    assert paired(student=mlp()) == (Pair("hidden2", "pooling", True),)


def test_networks_without_a_common_rank_are_refused():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="out")(inputs))
    with pytest.raises(ModelError, match="the student's features are of no known kind, the teacher's") as caught:
        paired(student=network(model))
    assert caught.value.hint == "set teacher_layer and student_layer"


def test_pairs_are_automatic_without_names():
    assert paired() == (Pair("block3", "block4", True),)


def test_named_pairs_are_kept_in_order():
    pairs = paired(student_layer=["block1", "block3"], teacher_layer=["block2", "block4"])
    assert pairs == (Pair("block1", "block2", False), Pair("block3", "block4", False))


def test_one_named_side_is_paired_with_a_chosen_one():
    assert paired(teacher_layer="block2") == (Pair("block3", "block2", True),)
    assert paired(student_layer="block1") == (Pair("block1", "block4", True),)


@pytest.mark.parametrize(
    ("side", "given", "near", "listed"),
    [("teacher", "blok4", "block4", "block4"), ("student", "block_3", "block3", "block3_convolution")],
)
def test_unknown_layer_is_refused_with_a_suggestion_and_the_list(side, given, near, listed):
    with pytest.raises(UsageError) as caught:
        paired(**{f"{side}_layer": given})
    shown = f"{caught.value.message} {caught.value.hint}"
    assert f"{given!r}" in shown
    assert f"did you mean {near!r}?" in shown
    assert listed in shown
    assert side in shown


def test_unknown_layer_is_a_recipe_error():
    # The contract's table: exit code 2, "also an unknown layer".
    with pytest.raises(UsageError) as caught:
        paired(teacher_layer="nothing")
    assert caught.value.exit_code == 2


def test_different_numbers_of_names_are_refused_with_both():
    with pytest.raises(UsageError, match=r"teacher_layer names 2, student_layer 1"):
        paired(teacher_layer=["block1", "block2"], student_layer="block1")


def test_several_names_on_one_side_need_the_other_side():
    with pytest.raises(UsageError, match=r"several layers are named, so student_layer must name the same number"):
        paired(teacher_layer=["block1", "block2"])


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        ({"kind": "hint"}, ["the last maps of both (2×2×8, 2×2×16)"]),
        ({"kind": "hint", "teacher_layer": "block2"}, ["the last maps of the student (2×2×8, 4×4×4)"]),
        ({"kind": "hint", "student_layer": "block1"}, ["the last maps of the teacher (8×8×2, 2×2×16)"]),
        (
            {"kind": "attention_transfer"},
            [
                f"maps at the stage ends of both, nearest in size ({one}, {other})"
                for one, other in (("8×8×2", "8×8×2"), ("4×4×4", "4×4×4"), ("2×2×8", "2×2×16"))
            ],
        ),
        ({"kind": "hint", "teacher_layer": "block2", "student_layer": "block1"}, [None]),
    ],
)
def test_pair_has_the_reason_of_its_choice(loss, why):
    pairs = pair_layers(make(**loss), student=cnn(), teacher=cnn(blocks=4))
    assert [pair.why for pair in pairs] == why


def test_vectors_are_paired_by_depth_with_the_reason():
    deep = network(Mlp(width=4, depth=6).build((8, 8, 1), 3))
    pairs = pair_layers(make("activation_boundary"), student=mlp(), teacher=deep)
    assert {pair.why for pair in pairs} == {"vectors of both at equal relative depth (4, 4)"}
