"""kd inspect: a file alone, the file of a run, and a file with data."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import blobs, save_npz

import kdcli
from kdcli.errors import ModelError, UsageError
from kdcli.runs.inspection_results import InspectedTensor
from kdcli.zoo import Cnn

KEYS = [
    "schema", "path", "format", "sha256", "inputs", "outputs", "output_kind", "parameters", "bytes",
    "export_bytes", "flops", "taps", "safe", "findings",
]  # fmt: skip


def small(*, softmax: bool = True, size: int | None = 8) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, 1), name="picture")
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="first")(inputs)
    x = keras.layers.BatchNormalization(name="normal")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooled")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax" if softmax else None, name="last")(x))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    small().save(folder / "m.keras")
    small(softmax=False).save(folder / "m.h5")
    small(softmax=False, size=None).save(folder / "any.keras")
    save_npz(folder / "data.npz")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return kdcli.distill(
        teacher=folder / "m.keras",
        student=folder / "any.keras",
        data=folder / "data.npz",
        out=folder / "run",
        epochs=1,
        preflight=False,
        settings=["student.input.resize=[6, 6]", "student.input.scale=raw"],
    )


def test_the_document_has_the_keys_of_the_contract(folder, monkeypatch):
    monkeypatch.chdir(folder)
    document = kdcli.inspect("m.keras").to_json()
    content = (folder / "m.keras").read_bytes()
    assert list(document) == KEYS
    assert document["taps"] == [
        {"name": "first", "shape": [None, 8, 8, 4]},
        {"name": "normal", "shape": [None, 8, 8, 4]},
        {"name": "pooled", "shape": [None, 4]},
        {"name": "last", "shape": [None, 3]},
    ]
    parameters = 9 * 4 + 4 * 4 + 4 * 3 + 3
    assert {key: value for key, value in document.items() if key != "taps"} == {
        "schema": "kd.inspect/1",
        "path": "m.keras",
        "format": "keras",
        "sha256": hashlib.sha256(content).hexdigest(),
        "inputs": [{"name": "picture", "shape": [None, 8, 8, 1], "dtype": "float32"}],
        "outputs": [{"name": "last", "shape": [None, 3], "dtype": "float32"}],
        "output_kind": "probabilities",
        "parameters": parameters,
        "bytes": len(content),
        "export_bytes": {"float32": 4 * parameters, "float16": 2 * parameters, "int8": parameters},
        "flops": 2 * (8 * 8 * 9 * 4 + 4 * 3),
        "safe": True,
        "findings": [],
    }


def test_every_tap_is_accepted_by_a_hint(folder):
    found = kdcli.inspect(folder / "m.keras")
    recipe = {"losses": [{"kind": "hint", "teacher_layer": found.taps[1].name, "student_layer": "normal"}]}
    plan = kdcli.distill(
        teacher=folder / "m.keras",
        student=folder / "m.h5",
        recipe=recipe,
        data=folder / "data.npz",
        dry_run=True,
        preflight=False,
    )
    assert plan.pairs[0]["teacher"] == "normal"


def test_layers_count_their_own_parameters(folder):
    layers = {layer.name: (layer.kind, layer.parameters) for layer in kdcli.inspect(folder / "m.h5").layers}
    assert layers["first"] == ("Conv2D", 36)
    assert layers["pooled"] == ("GlobalAveragePooling2D", 0)
    assert sum(parameters for _, parameters in layers.values()) == small().count_params()


def test_nested_layers_are_listed_once(tmp_path):
    inner = small()
    outer = keras.Sequential([keras.Input((8, 8, 1)), inner, keras.layers.Dense(2, name="outer")])
    outer.save(tmp_path / "nested.keras")
    found = kdcli.inspect(tmp_path / "nested.keras")
    assert f"{inner.name}/first" in [layer.name for layer in found.layers]
    assert sum(layer.parameters for layer in found.layers) == found.parameters == outer.count_params()
    assert f"{inner.name}/pooled" in [tap.name for tap in found.taps]


def test_a_model_for_any_size_has_open_shapes_and_no_flops(folder):
    found = kdcli.inspect(folder / "any.keras")
    assert found.inputs[0].shape == (None, None, None, 1)
    assert found.taps[0].shape == (None, None, None, 4)
    assert found.flops is None


def test_a_run_records_its_output_kind_and_its_image_size(run):
    found = kdcli.inspect(run.run)
    assert found.path == run.model_path
    assert (found.output_kind, found.format) == ("logits", "keras")
    assert found.taps[0].shape == (None, 6, 6, 4)
    assert found.flops == 2 * (6 * 6 * 9 * 4 + 4 * 3)


def test_data_finds_an_output_kind_that_the_file_does_not_show(folder, tmp_path):
    inputs = keras.Input((8, 8, 1))
    probabilities = keras.ops.softmax(keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    keras.Model(inputs, probabilities).save(tmp_path / "hidden.keras")
    assert kdcli.inspect(tmp_path / "hidden.keras").output_kind == "logits"
    found = kdcli.inspect(tmp_path / "hidden.keras", data=folder / "data.npz")
    assert found.output_kind == "probabilities"
    assert list(found.to_json()) == [*KEYS, "checked"]


def test_data_adds_a_check(folder):
    checked = kdcli.inspect(folder / "m.keras", data=folder / "data.npz", limit=12).to_json()["checked"]
    x, y = (array[:] for array in blobs(48, seed=1))
    evaluated = kdcli.evaluate(folder / "m.keras", data=folder / "data.npz", limit=12)
    assert len(x) == len(y) == 48
    assert (checked["split"], checked["examples"], checked["task"], checked["answer"]) == (
        "test",
        12,
        "classification",
        [3],
    )
    assert checked["accuracy"] == evaluated.models[0].quality.accuracy
    assert checked["input"]["x"]["scale"] == "unit"


def test_settings_change_the_preprocessing(folder):
    found = [
        kdcli.inspect(folder / "any.keras", data=folder / "data.npz", settings=[f"student.input.{setting}"])
        for setting in ("resize=[5, 5]", "scale=signed")
    ]
    assert found[0].taps[0].shape == (None, 5, 5, 4)
    assert found[0].flops == 2 * (5 * 5 * 9 * 4 + 4 * 3)
    assert found[1].checked.input["x"]["scale"] == "signed"


def test_a_run_is_checked_on_the_given_data(run, folder):
    found = kdcli.inspect(run.run, data=folder / "data.npz")
    assert found.checked.input["x"]["scale"] == "raw"
    assert found.checked.examples == 48


def test_batch_size_changes_no_metric(folder):
    found = [kdcli.inspect(folder / "m.keras", data=folder / "data.npz", batch_size=size) for size in (7, 256)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"limit": 5}, "--limit"),
        ({"batch_size": 5}, "--batch-size"),
        ({"settings": ["student.output=dense", "train.epochs=1"]}, "--set train.epochs=1"),
    ],
)
def test_options_without_effect_are_refused_without_data(folder, given, option):
    with pytest.raises(UsageError, match=f"{option} has no effect without data") as caught:
        kdcli.inspect(folder / "m.keras", **given)
    assert caught.value.hint == "--data D"


def test_a_setting_chooses_an_output_without_data(tmp_path):
    inputs = keras.Input((4,))
    keras.Model(inputs, {name: keras.layers.Dense(size)(inputs) for name, size in (("a", 3), ("b", 2))}).save(
        tmp_path / "two.keras"
    )
    found = kdcli.inspect(tmp_path / "two.keras", settings=["student.output=b"])
    assert [(one.name, one.shape) for one in found.outputs] == [("b", (None, 2))]


def test_missing_damaged_and_unfit_inputs_are_refused(folder, tmp_path):
    with pytest.raises(ModelError, match=r"no\.keras: no such model file"):
        kdcli.inspect(tmp_path / "no.keras")
    (tmp_path / "bad.keras").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"not a \.keras file"):
        kdcli.inspect(tmp_path / "bad.keras")
    with pytest.raises(UsageError, match=r"no data: data\.source is not set"):
        kdcli.inspect(folder / "m.keras", recipe={})
    with pytest.raises(ModelError, match="has 3 outputs, the data has 4 classes"):
        kdcli.inspect(folder / "m.keras", data=blobs(12, classes=4))


def test_a_litert_file_shows_its_tensors(tmp_path):
    pytest.importorskip("ai_edge_litert")
    import tensorflow as tf

    from kdcli.lazy import silence_descriptor

    with silence_descriptor(1), silence_descriptor(2):
        content = tf.lite.TFLiteConverter.from_keras_model(small()).convert()
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    document = kdcli.inspect(path).to_json()
    assert list(document) == KEYS
    assert (document["format"], document["bytes"]) == ("tflite", len(content))
    assert document["inputs"][0]["shape"] == [None, 8, 8, 1]
    assert document["outputs"][0]["shape"] == [None, 3]
    assert {tensor["dtype"] for tensor in (*document["inputs"], *document["outputs"])} == {"float32"}
    unknown = ("output_kind", "parameters", "export_bytes", "flops", "taps")
    assert [document[key] for key in unknown] == [None] * 5
    found = kdcli.inspect(path, data=save_npz(tmp_path / "data.npz"), limit=12)
    assert (found.output_kind, found.checked.examples, found.checked.answer) == ("probabilities", 12, (3,))
    small().save(tmp_path / "m.keras")
    same = kdcli.inspect(tmp_path / "m.keras", data=tmp_path / "data.npz", limit=12)
    assert found.checked.metric == same.checked.metric


def test_the_command_shows_taps(kd, folder):
    ran = kd("inspect", folder / "m.keras")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].endswith(f"sha256 {hashlib.sha256((folder / 'm.keras').read_bytes()).hexdigest()}")
    assert "output     last: 3 float32, probabilities" in lines
    assert any(line.split() == ["first", "8×8×4"] for line in lines)
    assert "screening  safe: true" in lines
    assert not any(line.startswith("layer ") for line in lines)
    assert any(
        line.split() == ["first", "Conv2D", "36"]
        for line in kd("inspect", folder / "m.keras", "--verbose").out.splitlines()
    )


def test_the_command_shows_the_check_on_data(kd, folder):
    ran = kd("inspect", folder / "any.keras", "--data", folder / "data.npz", "--limit", "12")
    assert "FLOPs      4,632 per example" in ran.out
    line = next(line for line in ran.out.splitlines() if line.startswith("checked"))
    assert "12 examples of" in line and "output shape 3, input.scale unit, accuracy 0." in line


def test_the_command_prints_one_document_or_the_path(kd, folder):
    assert list(kd("inspect", folder / "m.keras", "--json").document) == KEYS
    quiet = kd("inspect", folder / "m.keras", "--quiet")
    assert (quiet.err, len(quiet.out.splitlines())) == ("", 1)
    assert Path(quiet.out.strip()).resolve() == (folder / "m.keras").resolve()


def test_no_metric_is_shown_without_labels(folder):
    found = kdcli.inspect(folder / "m.keras", data={"x": blobs(12)[0]})
    assert found.checked.metric is None
    assert "accuracy" not in found.to_json()["checked"]
    assert np.prod(found.checked.answer) == 3


def test_a_zoo_model_is_listed_in_a_few_sizes(folder):
    found = kdcli.inspect("zoo:cnn", data=folder / "data.npz")
    document = found.to_json()
    assert (document["path"], document["format"], document["sha256"]) == ("zoo:cnn", "zoo", None)
    built = {width: Cnn(width=width).build((8, 8, 1), 3) for width in (4, 8, 16, 32, 64)}
    assert [size["model"] for size in document["sizes"]] == [
        {"kind": "zoo", "name": "cnn", "width": width} for width in built
    ]
    counts = [model.count_params() for model in built.values()]
    assert [size["parameters"] for size in document["sizes"]] == counts
    assert [size["int8_bytes"] for size in document["sizes"]] == counts
    # Three convolutions of width, 2 and 4 times it at 8, 4 and 2 positions a side, then the logits.
    for width, size in zip(built, document["sizes"], strict=True):
        taken = [(64, 1, width), (16, width, 2 * width), (4, 2 * width, 4 * width)]
        flops = sum(2 * positions * 9 * one * other for positions, one, other in taken) + 2 * 4 * width * 3
        assert size["flops"] == flops
        assert size["latency"]["runtime"] == "tensorflow" and size["latency"]["p50_ms"] > 0
    # The default size is described like any model.
    assert document["parameters"] == built[16].count_params()
    assert {layer.name for layer in built[16].layers} >= {tap["name"] for tap in document["taps"]}
    assert {layer.name for layer in found.layers} == {layer.name for layer in built[16].layers[1:]}


def test_settings_change_a_described_zoo_model(folder):
    request = {"data": folder / "data.npz", "settings": ["student.model.blocks=1", "student.model.width=3"]}
    document = kdcli.inspect("zoo:cnn", **request).to_json()
    assert document["parameters"] == Cnn(width=3, blocks=1).build((8, 8, 1), 3).count_params()
    first, second = document["sizes"][:2]
    assert first["model"] == {"kind": "zoo", "name": "cnn", "blocks": 1, "width": 3}
    assert second["parameters"] == Cnn(width=4, blocks=1).build((8, 8, 1), 3).count_params()


@pytest.mark.parametrize("name", ["mlp", "resnet", "mobile"])
def test_every_zoo_model_has_sizes_that_grow(folder, name):
    sizes = kdcli.inspect(f"zoo:{name}", data=folder / "data.npz").sizes
    assert len(sizes) >= 4
    parameters = [size.parameters for size in sizes]
    assert parameters == sorted(parameters)


@pytest.mark.parametrize(
    ("model", "given", "message", "hint"),
    [
        ("zoo:cn", {"data": "digits"}, "unknown zoo model 'cn'", None),
        ("zoo:clone", {"data": "digits"}, "the teacher's own architecture", "kd inspect TEACHER"),
        ("zoo:application", {"data": "digits"}, "needs an architecture", "student.model.architecture=MobileNetV2"),
        ("zoo:cnn", {}, "a zoo model needs data", "kd inspect zoo:cnn --data digits"),
        ("zoo:cnn", {"data": "digits", "limit": 5}, "--limit has no effect on zoo:cnn", "leave it out"),
        ("zoo:cnn", {"data": "digits", "recipe": "born-again"}, "student.model is not cnn", "without --recipe"),
    ],
)
def test_bad_requests_for_zoo_models_are_refused(model, given, message, hint):
    with pytest.raises(UsageError, match=message) as refused:
        kdcli.inspect(model, **given)
    assert hint is None or hint in str(refused.value.hint)


def test_the_command_lists_sizes_and_a_next_command_that_works(kd, folder, tmp_path):
    result = kd("inspect", "zoo:mlp", "--data", str(folder / "data.npz"))
    assert result.code == 0, result.err
    assert "{kind: zoo, name: mlp, width: 16}" in result.out
    next_line = result.err.strip().splitlines()[-1]
    words = shlex.split(next_line.removeprefix("next: kd ").replace("FILE", str(folder / "m.keras")))
    planned = kd(*words, "--batch-size", "16", "--no-preflight", "--dry-run", "--json")
    assert planned.code == 0, planned.err
    settings = {row["path"]: row["value"] for row in json.loads(planned.out)["settings"]}
    assert (settings["student.model.name"], settings["student.model.width"]) == ("mlp", 16)


def text_model(kind):
    """A classifier with a layer that turns strings into numbers."""
    layers, inputs = keras.layers, keras.Input((1,), dtype="string")
    if kind == "vectorized":
        words = layers.TextVectorization(20, output_sequence_length=4)
        words.adapt(["a good film", "a bad film"])
    else:
        words = layers.StringLookup(vocabulary=["good", "bad"]) if kind == "looked up" else layers.Hashing(5)
    hidden = layers.GlobalAveragePooling1D()(layers.Embedding(20, 3)(words(inputs)))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(hidden))


@pytest.mark.parametrize("kind", ["vectorized", "looked up", "hashed"])
def test_models_that_take_strings_are_described_and_refuse_numbers(folder, tmp_path, kind):
    model = text_model(kind)
    model.save(tmp_path / "text.keras")
    found = kdcli.inspect(tmp_path / "text.keras")
    assert found.safe and [one.dtype for one in found.inputs] == ["string"]
    assert found.parameters == sum(np.prod(weight.shape) for weight in model.trainable_weights)
    assert sum(layer.parameters for layer in found.layers) == found.parameters
    with pytest.raises(ModelError, match="takes strings, the data has numbers"):
        kdcli.evaluate(tmp_path / "text.keras", data=folder / "data.npz")


def test_a_refused_saved_model_with_tables_still_shows_its_tensors(kd, tmp_path):
    text_model("looked up").export(tmp_path / "text", verbose=False)
    refused = kd("inspect", tmp_path / "text", "--json")
    assert (refused.code, refused.document["safe"]) == (4, False)
    allowed = kd("inspect", tmp_path / "text", "--allow-tables", "--json")
    assert (allowed.code, allowed.document["safe"]) == (0, True)
    assert refused.document["inputs"] == allowed.document["inputs"]
    assert refused.document["inputs"][0]["dtype"] == "string"


def saved_module(path, **specs):
    """A SavedModel that sums its input, with a signature for each shape."""
    import tensorflow as tf

    functions = {
        name: tf.function(lambda x: {"sum": tf.reduce_sum(x, -1, keepdims=True)}).get_concrete_function(
            tf.TensorSpec(shape, tf.float32, name="x")
        )
        for name, shape in specs.items()
    }
    tf.saved_model.save(tf.Module(), str(path), signatures=functions)
    return path


def test_an_unknown_shape_is_described_and_safe(kd, folder, tmp_path):
    saved_module(tmp_path / "m", serving_default=None)
    ran = kd("inspect", tmp_path / "m")
    assert ran.code == 0
    assert "input      x: unknown float32" in ran.out and "screening  safe: true" in ran.out
    assert "finding    unfit: " in ran.out
    assert InspectedTensor("x", None, "float32").to_json() == {"name": "x", "shape": None, "dtype": "float32"}
    assert kd("evaluate", tmp_path / "m", "--data", folder / "data.npz").code == 4


def test_signatures_are_listed_if_one_must_be_chosen(kd, tmp_path):
    saved_module(tmp_path / "m", embed=[None, 4], score=[None, 2, 3])
    ran = kd("inspect", tmp_path / "m", "--json")
    assert (ran.code, ran.document["safe"]) == (0, True)
    assert (ran.document["signature"], ran.document["signatures"]) == (None, ["embed", "score"])
    assert ran.document["findings"][0].endswith("; --signature embed")
    chosen = kd("inspect", tmp_path / "m", "--signature", "score", "--json").document
    assert (chosen["signature"], chosen["inputs"][0]["shape"]) == ("score", [None, 2, 3])


@pytest.mark.filterwarnings("ignore:Statistics for quantized")
def test_a_litert_file_shows_its_own_types_batch_and_quantization(tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    import tensorflow as tf

    from kdcli.lazy import silence_descriptor

    inputs = keras.Input((8, 8, 1), batch_size=1)
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, small()(inputs)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None] / np.float32(255)] for x in blobs(8)[0])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path = tmp_path / "m.tflite"
    with silence_descriptor(1), silence_descriptor(2):
        path.write_bytes(converter.convert())
    own = interpreter.Interpreter(str(path))
    sides = (own.get_input_details(), own.get_output_details())
    found = kdcli.inspect(path).to_json()
    for noun, (detail,) in zip(("inputs", "outputs"), sides, strict=True):
        (shown,) = found[noun]
        assert (shown["shape"], shown["dtype"]) == (detail["shape"].tolist(), "int8")
        assert (shown["scale"], shown["zero_point"]) == pytest.approx(detail["quantization"])
