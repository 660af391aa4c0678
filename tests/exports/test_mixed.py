"""Mixed precision: the fewest operations in float32 that a check accepts."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kdcli.errors import ModelError

pytest.importorskip("litert_quantizer")

from ai_edge_litert.interpreter import Interpreter

from kdcli.exports.litert_quantizer import FloatFile
from kdcli.exports.mixed import count_float_operations, measure_sensitivities, quantize_mixed

# Calibration keeps all tensors on purpose; `kd export` hides the warning.
pytestmark = pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`")


@pytest.fixture(scope="module")
def model():
    """Four dense layers; one value of the second is 100 times larger than it has to be, for the same outputs."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, activation=one) for one in ("tanh", "relu", "relu")]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])
    wide, reader = layers[1:]
    wide.kernel.assign(wide.kernel * np.array([100, *[1] * 7]))
    reader.kernel.assign(reader.kernel / np.array([[100], *[[1]] * 7]))
    return model


@pytest.fixture(scope="module")
def examples():
    return np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def file(model, examples, tmp_path_factory):
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("mixed")
    model.export(folder / "saved", verbose=False)
    content = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved")).convert()
    return FloatFile(content, "mixed", [one[None] for one in examples])


def run(content, examples):
    runner = Interpreter(model_content=content)
    place = runner.get_input_details()[0]["index"]
    runner.resize_tensor_input(place, examples.shape)
    runner.allocate_tensors()
    runner.set_tensor(place, examples)
    runner.invoke()
    return runner.get_tensor(runner.get_output_details()[0]["index"])


def error(content, model, examples):
    """Against plain Keras, as a fraction of the variance of its outputs."""
    expected = keras.ops.convert_to_numpy(model(examples))
    return np.square(run(content, examples) - expected).sum() / np.square(expected - expected.mean(0)).sum()


def floats_in(content, tmp_path):
    (tmp_path / "m.tflite").write_bytes(content)
    return count_float_operations(tmp_path / "m.tflite")


def test_nothing_stays_in_float32_if_8_bits_are_accepted(file, tmp_path):
    content = quantize_mixed(file, lambda content: True)
    assert content == file.quantize()
    assert floats_in(content, tmp_path)[0] == 0


def test_the_sensitivity_is_the_error_of_the_only_operation_with_8_bits(file, model, examples):
    errors = measure_sensitivities(file)
    assert list(errors) == file.operations
    for name, found in errors.items():
        others = [one for one in file.operations if one != name]
        assert found == pytest.approx(error(file.quantize(floats=others), model, examples), rel=1e-3, abs=1e-9)


def test_the_fewest_of_the_most_sensitive_operations_stay_in_float32(file, model, examples, tmp_path):
    errors = measure_sensitivities(file)
    order = sorted(errors, key=lambda one: -errors[one])
    ladder = [error(file.quantize(floats=order[:count]), model, examples) for count in range(len(order) + 1)]
    # Float operations help here, and all of them give the model itself.
    assert ladder[0] > 10 * ladder[2] > 0 and ladder[-1] < 1e-9
    bound = (ladder[0] + min(ladder[1:])) / 2
    wanted = next(count for count, one in enumerate(ladder) if one <= bound)
    content = quantize_mixed(file, lambda content: error(content, model, examples) <= bound)
    assert wanted > 0 and content == file.quantize(floats=order[:wanted])
    assert floats_in(content, tmp_path)[0] == wanted
    assert len(file.quantize()) < len(content)


def test_float32_is_the_last_that_is_tried(file):
    tried = []

    def refuse(content):
        tried.append(content)
        return False

    with pytest.raises(ModelError, match="not even one in float32"):
        quantize_mixed(file, refuse)
    assert tried[-1] == file.quantize(floats=file.operations)
