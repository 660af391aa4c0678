"""Folders for TensorFlow Lite Micro: C code, the smallest arena, and operations that are missing."""

from __future__ import annotations

import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from conftest import blobs

from kdcli.errors import ModelError
from kdcli.exports.micro import Micro
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import make_served_model
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.runtimes.micro import MicroRunner

pytest.importorskip("tflite_micro")
layers = keras.layers


def write(model, folder, name="my-model"):
    preprocessing = Preprocessing((8, 8, 1), "uint8", (8, 8, 1), "float32", "unit")
    network = KerasNetwork(model, name="m").with_preprocessing({"x": preprocessing})
    x, _ = blobs(60, seed=3)
    x = x.reshape(-1, 8, 8, 1).astype(np.uint8)
    serving = make_served_model(network, include_preprocessing=True, batch=1, floats=True).shown({"x": x})
    path = folder / Micro().file_name(name)
    Micro().write(serving, path)
    return path, x


def build(activation="relu"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, activation=activation, padding="same")(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def test_the_interpreter_gives_the_outputs_of_litert_in_the_smallest_arena(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    path, x = write(build(), tmp_path)
    with Micro().open(path) as runner:
        outputs = runner.predict(x.astype(np.float32))
        arena = runner.arena_bytes
    file = path / "my-model.tflite"
    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = given["quantization"]
    for image, output in zip(x, outputs, strict=True):
        interpreter.set_tensor(taken["index"], (image[None].astype(int) - 128).astype(np.int8))
        interpreter.invoke()
        expected = (interpreter.get_tensor(given["index"])[0].astype(float) - zero) * scale
        # The kernels round differently by one step.
        np.testing.assert_allclose(output, expected, atol=1.01 * scale)
    MicroRunner(file, arena=arena, name="enough").close()
    with pytest.raises(ModelError):
        MicroRunner(file, arena=arena - 128, name="too small")


def test_the_c_code_holds_the_file(tmp_path):
    path, _ = write(build(), tmp_path)
    assert sorted(one.name for one in path.iterdir()) == [
        "my-model.tflite", "my_model_model_data.cc", "my_model_model_data.h"
    ]  # fmt: skip
    source = (path / "my_model_model_data.cc").read_text()
    content = bytes(int(one, 16) for one in re.findall(r"0x([0-9a-f]{2})", source))
    assert content == (path / "my-model.tflite").read_bytes()
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    main = '#include "my_model_model_data.h"\n#include <cstdio>\nint main() { printf("%u %u", '
    main += "g_my_model_model_data_size, g_my_model_model_data[4]); }\n"
    (path / "main.cc").write_text(main)
    subprocess.run(["g++", "main.cc", "my_model_model_data.cc", "-o", "main"], cwd=path, check=True)
    printed = subprocess.run([path / "main"], capture_output=True, text=True, check=True).stdout
    assert printed == f"{len(content)} {content[4]}"


def test_an_operation_that_the_runtime_lacks_is_named(tmp_path):
    path, _ = write(build(activation="gelu"), tmp_path)
    with pytest.raises(ModelError, match="TensorFlow Lite Micro has no operation GELU"):
        Micro().open(path)
