"""Exported files compute what `model.predict` computes, in float32, with the requested output kind."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.exports.format_choice import choose_formats
from kdcli.models.inference import choose_exported_kind, prepare_for_export
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import make_served_model
from kdcli.models.preprocessing import Preprocessing

FORMATS = [("keras", "none"), ("saved-model", "none"), ("onnx", "none")]
FORMATS += [("litert", quantize) for quantize in ("none", "float16", "dynamic", "int8")]
PACKAGES = {"litert": "ai_edge_litert", "onnx": "onnxruntime"}
BYTES = (0, 255)
L = keras.layers
AUGMENTATIONS = {
    "AugMix": {"value_range": BYTES},
    "CutMix": {},
    "MixUp": {},
    "RandAugment": {"value_range": BYTES},
    "RandomBrightness": {"factor": 0.5},
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomColorJitter": {"value_range": BYTES, "brightness_factor": 0.5, "hue_factor": 0.5},
    "RandomContrast": {"factor": 0.5},
    "RandomCrop": {"height": 12, "width": 12},
    "RandomElasticTransform": {"factor": 1.0, "scale": 1.0},
    "RandomErasing": {"factor": 1.0},
    "RandomFlip": {},
    "RandomGaussianBlur": {"factor": 1.0},
    "RandomGrayscale": {"factor": 1.0},
    "RandomHue": {"factor": 0.5},
    "RandomInvert": {"factor": 1.0},
    "RandomPerspective": {"factor": 1.0},
    "RandomPosterization": {"factor": 3},
    "RandomRotation": {"factor": 0.5},
    "RandomSaturation": {"factor": 0.9},
    "RandomSharpness": {"factor": 0.9},
    "RandomTranslation": {"height_factor": 0.5, "width_factor": 0.5},
    "RandomZoom": {"height_factor": 0.5},
    "Solarization": {"addition_factor": 0.5},
    "GaussianNoise": {"stddev": 1.0},
    "GaussianDropout": {"rate": 0.5},
    "Dropout": {"rate": 0.5},
    "SpatialDropout2D": {"rate": 0.5},
    "AlphaDropout": {"rate": 0.5},
}
# Layers that act in inference as in training, or change shapes only. Keras 3.15 cannot load its own RandomShear,
# and cannot chain Equalization, whose symbolic output is its input.
OTHERS = {
    *("RandomShear", "AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "Equalization"),
    *("CenterCrop", "MaxNumBoundingBoxes", "Resizing"),
}


def images(count=40, size=12):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def network_of(model, raw):
    shape, dtype = raw.shape[1:], raw.dtype.name
    own = model.inputs[0]
    preparation = Preprocessing(shape, dtype, tuple(own.shape[1:]), own.dtype, "raw")
    return KerasNetwork(model, name="m").with_preprocessing({"x": preparation})


def file_outputs(network, raw, folder, *, kind, quantize="none", **options):
    """The outputs of an exported file for raw examples, in its own runtime."""
    (format_,) = choose_formats([kind], quantize=[quantize])
    if kind in PACKAGES:
        pytest.importorskip(PACKAGES[kind])
    serving = make_served_model(network, include_preprocessing=True, floats=format_.takes_floats, **options)
    if format_.from_data:
        serving = serving.shown({"x": raw})
    path = folder / format_.file_name("m")
    format_.write(serving, path)
    runner = format_.open(path)
    try:
        return runner.predict(serving.convert_examples({"x": raw}))
    finally:
        runner.close()


@pytest.fixture(scope="module")
def augmented():
    """A model with every augmentation of Keras, some in a nested model and one called with training=True."""
    keras.utils.set_random_seed(0)
    chain = [getattr(L, name)(**options) for name, options in AUGMENTATIONS.items()]
    inputs = keras.Input((12, 12, 3))
    x = keras.Sequential(chain[:6], name="nested")(inputs)
    for layer in chain[6:]:
        x = layer(x, training=True) if layer.name.startswith("random_flip") else layer(x)
    x = L.BatchNormalization()(L.Conv2D(6, 3, activation="relu")(L.Rescaling(1 / 255)(x)))
    model = keras.Model(inputs, L.Dense(4, activation="softmax")(L.Flatten()(x)))
    raw = images()
    return model, raw, model.predict(raw, verbose=0)


def test_every_augmentation_of_keras_is_tested():
    there = {name for name in dir(L) if "image_preprocessing" in getattr(getattr(L, name), "__module__", "")}
    assert there <= {*AUGMENTATIONS, *OTHERS}


@pytest.mark.parametrize(("kind", "quantize"), FORMATS)
def test_augmentation_is_off_in_every_format(augmented, kind, quantize, tmp_path):
    model, raw, wanted = augmented
    found = file_outputs(network_of(model, raw), raw, tmp_path, kind=kind, quantize=quantize)
    np.testing.assert_allclose(found, wanted, atol=0.05 if quantize in ("int8", "dynamic") else 2e-3)
    sure = np.sort(wanted)[:, -1] - np.sort(wanted)[:, -2] > 0.1
    assert sure.sum() > 5
    np.testing.assert_array_equal(found.argmax(-1)[sure], wanted.argmax(-1)[sure])


def test_a_keras_file_computes_in_inference_mode_when_called(augmented, tmp_path):
    model, raw, wanted = augmented
    file_outputs(network_of(model, raw), raw, tmp_path, kind="keras")
    plain = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(plain(raw), wanted, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_half_precision_is_exported_in_float32(policy, tmp_path):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((12, 12, 3), dtype="float32")
        x = L.BatchNormalization()(L.Conv2D(6, 3)(L.Rescaling(1 / 255)(inputs)))
        model = keras.Model(inputs, L.Dense(4, activation="softmax")(L.Flatten()(x)))
    finally:
        keras.config.set_dtype_policy("float32")
    raw = images()
    wanted = model.predict(raw, verbose=0).astype("float32")
    network = prepare_for_export(network_of(model, raw), "probabilities")
    for kind in ("litert", "keras"):
        found = file_outputs(network, raw, tmp_path, kind=kind)
        np.testing.assert_allclose(found, wanted, atol=0.01)
    plain = keras.saving.load_model(tmp_path / "m.keras")
    assert {str(weight.dtype) for weight in plain.weights} == {"float32"}
    assert plain.compute_dtype == plain.layers[-1].compute_dtype == "float32"


@pytest.mark.parametrize("axis", [-1, None])
def test_tensors_of_a_layer_are_not_inputs_of_an_onnx_file(axis, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    raw = (np.random.default_rng(0).standard_normal((40, 4)) * [1, 10, 100, 5]).astype("float32")
    layer = L.Normalization(axis=axis)
    layer.adapt(raw)
    inputs = keras.Input((4,))
    keras.Model(inputs, L.Dense(2)(layer(inputs))).save(tmp_path / "given.keras")
    # Only a loaded layer holds tensors that are not variables.
    model = keras.saving.load_model(tmp_path / "given.keras")
    found = file_outputs(network_of(model, raw), raw, tmp_path, kind="onnx")
    np.testing.assert_allclose(found, model.predict(raw, verbose=0), atol=1e-5)
    assert [one.name for one in onnxruntime.InferenceSession(tmp_path / "m.onnx").get_inputs()] == ["input"]


def softmax_of(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


ENDS = {
    "logits": lambda x: L.Dense(4)(x),
    "activation": lambda x: L.Dense(4, activation="softmax")(x),
    "layer": lambda x: L.Activation("softmax")(L.Dense(4)(x)),
    "Softmax": lambda x: L.Softmax()(L.Dense(4)(x)),
    "operation": lambda x: keras.ops.softmax(L.Dense(4)(x)),
}


@pytest.mark.parametrize(("end", "kind"), [*((end, "keras") for end in ENDS), ("activation", "litert")])
def test_a_file_gives_the_requested_output_kind(end, kind, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, ENDS[end](inputs))
    raw = np.random.default_rng(0).standard_normal((20, 6)).astype("float32")
    dense = next(layer for layer in model.layers if isinstance(layer, L.Dense))
    logits = raw @ dense.kernel.numpy() + dense.bias.numpy()

    network = network_of(model, raw)
    if end == "operation":
        network = network.with_output_kinds("probabilities", output_kind="logits")
    probabilities = file_outputs(network, raw, tmp_path, kind=kind, output_kind="probabilities")
    np.testing.assert_allclose(probabilities, softmax_of(logits), atol=1e-5)
    bare = prepare_for_export(network, "logits")
    found = file_outputs(bare, raw, tmp_path, kind=kind, output_kind="logits")
    np.testing.assert_allclose(softmax_of(found), softmax_of(logits), atol=1e-5)
    if end in ("logits", "activation", "layer"):
        np.testing.assert_allclose(found, logits, atol=1e-5)


@pytest.mark.parametrize(
    ("own", "wanted", "teachers", "expected"),
    [
        ("logits", "teacher", [], "logits"),
        ("logits", "teacher", ["logits"], "logits"),
        ("logits", "teacher", ["probabilities"], "probabilities"),
        ("logits", "teacher", ["logits", "probabilities"], "probabilities"),
        ("logits", "probabilities", ["logits"], "probabilities"),
        ("probabilities", "teacher", ["logits"], "logits"),
        ("probabilities", "teacher", [], "probabilities"),
        ("probabilities", "logits", [], "logits"),
        ("sigmoid", "teacher", ["probabilities"], "sigmoid"),
        ("values", "teacher", ["values"], "values"),
    ],
)
def test_the_output_kind_follows_the_teachers(own, wanted, teachers, expected):
    inputs = keras.Input((2,))
    network = KerasNetwork(keras.Model(inputs, L.Dense(3)(inputs)), name="m")
    network = network.with_output_kinds(own, output_kind="sigmoid" if own == "sigmoid" else "logits")
    assert choose_exported_kind(network, wanted, teachers=teachers) == expected
