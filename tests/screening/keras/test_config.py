"""The rules for configurations: messages and limits, and a verdict for every text."""

from __future__ import annotations

import json
import random
from typing import Any

import hostile_keras
import pytest

from kdcli.screening.keras.config import UnreadableConfigError, check_config, parse_json
from kdcli.screening.keras.objects import ConfigObject
from kdcli.screening.keras.weights import count_minimum_weights


def check(config: Any, *, stored_values: int = 15) -> list[str]:
    text = json.dumps(config).encode()
    return [
        str(finding)
        for finding in check_config(text, custom_names=(), stored_values=stored_values, name="config.json")
    ]


def layer(kind: str, shape: list[int | None] | None = None, **config: Any) -> ConfigObject:
    return ConfigObject(hostile_keras.keras_object(kind, config, build_config={"input_shape": shape}), "x")


def test_messages_name_the_layer_the_class_and_the_number():
    dense = hostile_keras.dense(units=9_000_000, name="wide")
    assert check(hostile_keras.sequential(dense)) == [
        "size: the model needs at least 3.6e+07 weights, the file has 15; most of them in 'wide' (Dense): 3.6e+07"
    ]
    assert check(hostile_keras.sequential(hostile_keras.dense(units=10**9)))[0] == (
        "size: 'dense': Dense has units 1000000000 (at most 10,000,000)"
    )
    path = hostile_keras.keras_object("StringLookup", {"name": "words", "vocabulary": "/etc/passwd"})
    assert check(hostile_keras.sequential(path)) == [
        "outside-file: 'words': vocabulary is read from the file '/etc/passwd'"
    ]


def test_names_in_a_file_cannot_write_control_characters():
    name = "\x1b[2Jgone\n" + "x" * 1000
    messages = check(hostile_keras.sequential(hostile_keras.keras_object(name, {"name": name, name: 10**9})))
    assert messages
    assert all(message.isprintable() and len(message) < 500 for message in messages)


@pytest.mark.parametrize(
    ("one", "count"),
    [
        (layer("Dense", [None, 7], units=5), 35),
        (layer("Dense", None, units=5), 5),
        (layer("Conv2D", [None, 8, 8, 6], filters=4, kernel_size=[3, 5], groups=2), 4 * 15 * 3),
        (layer("Conv2D", [None, 6, 8, 8], filters=4, kernel_size=[3, 3], data_format="channels_first"), 4 * 9 * 6),
        (layer("LSTM", [None, 5, 3], units=4), 4 * 4 * (4 + 3)),
        (layer("GRU", [None, 5, 3], units=4), 3 * 4 * (4 + 3)),
        (layer("Embedding", None, input_dim=10, output_dim=3), 30),
        (layer("DepthwiseConv2D", [None, 8, 8, 6], kernel_size=[3, 3], depth_multiplier=2), 2 * 9 * 6),
        (layer("Flatten"), 0),
        (layer("Dense", [None, 7], units="many"), 7),
    ],
)
def test_the_minimum_number_of_weights_of_a_layer(one, count):
    assert count_minimum_weights(one) == count


def test_the_weights_of_a_shared_layer_are_counted_once():
    one = {**hostile_keras.dense(units=4_000_000), "shared_object_id": 5}
    assert check(hostile_keras.sequential(one, one)) == check(hostile_keras.sequential(one))
    two = {**one, "shared_object_id": 6}
    assert "3.2e+07" in check(hostile_keras.sequential(one, two))[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "is not valid JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "repeats the key 'c' in one object"),
        (b"[" * 99_999 + b"]" * 99_999, "is nested too deeply"),
        (b"[" * 101 + b"]" * 101, "at most 100 levels"),
        (b"\xff", "is not valid JSON"),
        (b" " * 33_000_000, "at most 32,000,000"),
        (b"[" + b"0," * 4_000_001 + b"0]", "more than 4,000,000 values"),
    ],
)
def test_unreadable_text_is_refused(text, reason):
    with pytest.raises(UnreadableConfigError, match=reason):
        parse_json(text)


def test_valid_json_is_parsed():
    text = '{"a": [1, 2.5, null, true, "\u00e9"], "b": {"c": {}}}'
    assert parse_json(text.encode()) == json.loads(text)
    assert parse_json(b"[" * 100 + b"]" * 100) is not None


ODD: list[Any] = [
    None,
    True,
    -1,
    2**70,
    1e308,
    float("nan"),
    "",
    "x" * 300,
    [],
    [[]],
    {},
    {"class_name": []},
]
ODD += [
    {"class_name": {}, "config": 1},
    {"class_name": "Dense", "config": None, "module": 3},
    [{"class_name": 5}],
]


@pytest.mark.parametrize(
    "config",
    [
        hostile_keras.sequential(hostile_keras.dense(units=10**400)),
        hostile_keras.sequential(hostile_keras.dense(batch_shape=[10**400, 4])),
        hostile_keras.sequential(hostile_keras.dense(sizes=[10**7] * 63 + [1e7])),
        {"class_name": ["Dense"], "config": {"path": "weights.h5"}},
    ],
)
def test_numbers_beyond_a_float_and_class_names_of_other_types_are_refused(config):
    messages = check(config)
    assert messages and all(message.isprintable() and len(message) < 500 for message in messages)


@pytest.mark.parametrize("seed", range(40))
def test_odd_values_anywhere_get_a_verdict(seed):
    chosen = random.Random(seed)
    inner = hostile_keras.sequential(hostile_keras.dense(), compile_config={"loss": "mse"})
    tile = hostile_keras.keras_object(
        "Tile", {"name": "t"}, module="keras.src.ops.numpy", inbound_nodes=[{"args": []}]
    )
    config = hostile_keras.sequential(inner, tile, hostile_keras.dense(), hostile_keras._doubled(2))
    for _ in range(8):
        place: Any = config
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chosen.choice(keys)
            if not isinstance(place[key], dict | list) or chosen.random() < 0.15:
                place[key] = chosen.choice(ODD)
                break
            place = place[key]
    for message in check(config):
        assert message.isprintable() and len(message) < 500


def test_configurations_of_earlier_keras_versions_are_safe():
    dense = {"class_name": "Dense", "config": {"name": "d", "units": 3, "batch_input_shape": [None, 4]}}
    shape = {"class_name": "TensorShape", "items": [None, 4]}
    pair = {"class_name": "__tuple__", "items": [3, 3]}
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    init = {"class_name": "VarianceScaling", "config": {"scale": 1.0, "mode": "fan_avg", "seed": None}}
    added = {"class_name": "TFOpLambda", "config": {"name": "add", "function": "__operators__.add"}}
    cut = {"class_name": "SlicingOpLambda", "config": {"name": "cut", "function": "__operators__.getitem"}}
    wide = {"class_name": "Dense", "config": {"units": 2, "dtype": policy, "kernel_initializer": init}}
    pool = {"class_name": "MaxPooling2D", "config": {"pool_size": pair, "build_input_shape": shape}}
    layers = [dense, wide, pool, added, cut, {"class_name": "Flatten", "config": {}}]
    assert check({"class_name": "Sequential", "config": layers}) == []
    graph = {"name": "model", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["d", 0, 0]]}
    for kind in ("Model", "Functional"):
        assert check({"class_name": kind, "config": graph, "keras_version": "2.2.4"}) == []
    module = {"module": "keras.src.engine.functional", "registered_name": "Functional"}
    assert check({"class_name": "Functional", "config": graph, **module}) == []
