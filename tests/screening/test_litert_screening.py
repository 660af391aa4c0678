"""Screening of `.tflite` files: converted models are safe, harmful files are refused, and nothing raises."""

from __future__ import annotations

import struct
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdcli.lazy import silence_descriptor
from kdcli.screening.litert import screen_litert

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")


def convert(folder, model, kind="float32", batch=None):
    """Convert a Keras model to a `.tflite` file."""
    with silence_descriptor(1), silence_descriptor(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signature = [tf.TensorSpec((batch, *model.inputs[0].shape[1:]), model.inputs[0].dtype)]
        model.export(folder / "model", format="tf_saved_model", input_signature=signature, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "model"))
        if kind != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if kind == "int8":
            images = np.random.default_rng(1).random((20, 1, *model.inputs[0].shape[1:]), np.float32)
            converter.representative_dataset = lambda: ([image] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        return converter.convert()


def convolutional():
    inputs = keras.Input((8, 8, 1))
    inner = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    inner = keras.layers.Flatten()(keras.layers.MaxPooling2D()(inner))
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(inner))


def attention():
    inputs = keras.Input((6, 8))
    inner = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    inner = keras.layers.LayerNormalization()(inner + inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(inner)))


def recurrent():
    layers = [keras.Input((5, 3)), keras.layers.LSTM(4), keras.layers.Dense(2)]
    return keras.Sequential(layers)


def embedding():
    layers = [keras.Input((5,), dtype="int32"), keras.layers.Embedding(20, 4), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    keras.utils.set_random_seed(0)
    return convert(tmp_path_factory.mktemp("good"), convolutional())


def screen(tmp_path, content):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    return screen_litert(path)


BENIGN = {
    "float32": (convolutional, "float32", None),
    "float16": (convolutional, "float16", None),
    "dynamic": (convolutional, "dynamic", None),
    "int8": (convolutional, "int8", None),
    "recurrent": (recurrent, "float32", 1),
    "attention": (attention, "float32", None),
    "attention-dynamic": (attention, "dynamic", None),
    "embedding": (embedding, "float32", None),
}


@pytest.mark.parametrize("name", BENIGN)
def test_converted_models_have_no_findings(tmp_path, name):
    build, kind, batch = BENIGN[name]
    assert screen(tmp_path, convert(tmp_path, build(), kind, batch)).findings == ()


def edit(content, change):
    """Change the object tree of a file."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def use_custom_operation(name):
    def change(model):
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = 32
        code.customCode = name

    return change


def use_operation(number):
    def change(model):
        model.operatorCodes[0].builtinCode = number
        model.operatorCodes[0].deprecatedBuiltinCode = min(number, 127)

    return change


def change_tensor(**values):
    def change(model):
        # A constant has a buffer with content, an activation has none.
        wants = "constant" if values.pop("constant", False) else "inner"
        for tensor in model.subgraphs[0].tensors:
            data = model.buffers[tensor.buffer].data
            if (data is not None and len(data) > 8) == (wants == "constant"):
                for name, value in values.items():
                    setattr(tensor, name, value)
                return
        raise AssertionError

    return change


def insert_nan(model):
    largest = max(model.buffers, key=lambda buffer: 0 if buffer.data is None else len(buffer.data))
    largest.data = np.array(largest.data, np.uint8)
    largest.data[:4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)


def call_itself(model):
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = 119
    model.operatorCodes.append(code)
    operator = model.subgraphs[0].operators[0]
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.builtinOptionsType, operator.builtinOptions = 93, schema.WhileOptionsT()
    operator.builtinOptions.condSubgraphIndex = operator.builtinOptions.bodySubgraphIndex = 0


def use_external_buffers(model):
    group = schema.ExternalBufferGroupT()
    group.name = "/etc/passwd"
    model.externalBufferGroups = [group]


def change_operator(**values):
    def change(model):
        for name, value in values.items():
            setattr(model.subgraphs[0].operators[0], name, value)

    return change


def move_buffer_past_the_end(model):
    buffer = model.buffers[-1]
    buffer.data, buffer.offset, buffer.size = None, 2**40, 2**30


HOSTILE = {
    "custom": (use_custom_operation("Shell"), "operation: the custom operation 'Shell' is not part of LiteRT"),
    "flex": (use_custom_operation("FlexReadFile"), "operation: the TensorFlow operation 'FlexReadFile' is not"),
    "delegate": (use_operation(51), "operation: the operation DELEGATE is not supported"),
    "custom-call": (use_operation(173), "operation: the operation STABLEHLO_CUSTOM_CALL"),
    "unknown": (use_operation(999), "operation: the operation number 999"),
    "huge": (change_tensor(shape=[1, 100_000, 100_000]), "size: the tensor"),
    "constant-bomb": (change_tensor(constant=True, shape=[2**20, 2**20]), "size: the tensor"),
    "constant-short": (change_tensor(constant=True, shape=[3, 3]), "damaged: the tensor"),
    "negative": (change_tensor(shape=[-5]), "damaged: the tensor"),
    "no-buffer": (change_tensor(buffer=10_000), "damaged: the tensor"),
    "external-buffer": (change_tensor(externalBuffer=7), "external-data: the tensor"),
    "external-files": (use_external_buffers, "external-data: the buffers are stored in other files"),
    "nan": (insert_nan, "weights: the tensor"),
    "recursion": (call_itself, "recursion: a subgraph calls itself"),
    "no-operation": (change_operator(opcodeIndex=500), "damaged: an operation has an operator code"),
    "no-tensor": (change_operator(inputs=[9999]), "damaged: an operation reads or writes"),
    "options-past-the-end": (change_operator(largeCustomOptionsOffset=2**40), "damaged: the options"),
    "buffer-past-the-end": (move_buffer_past_the_end, "damaged: a buffer extends past the end"),
    "no-graph": (lambda model: setattr(model, "subgraphs", []), "damaged: the model has no subgraph"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_harmful_files_are_refused_within_two_seconds(tmp_path, good, name):
    change, message = HOSTILE[name]
    began = time.process_time()
    verdict = screen(tmp_path, edit(good, change))
    assert not verdict.safe
    assert str(verdict.refused[0]).startswith(message)
    assert time.process_time() - began < 2


def test_an_unchanged_object_tree_is_safe(tmp_path, good):
    assert screen(tmp_path, edit(good, lambda model: None)).safe


@pytest.mark.parametrize("length", [0, 3, 8, 40, 1000])
def test_truncated_files_are_damaged(tmp_path, good, length):
    verdict = screen(tmp_path, good[:length])
    assert [finding.rule for finding in verdict.refused] == ["damaged"]


def test_a_vector_as_long_as_the_file_is_refused_quickly(tmp_path):
    # One vector of tables at the same offset: each of them would be read again.
    count = 3_000_000
    head = struct.pack("<I4s", 20, b"TFL3") + struct.pack("<HHHHHH", 10, 8, 0, 0, 4, 0)
    content = head + struct.pack("<iII", 12, 4, count) + b"\0" * 4 * count
    began = time.process_time()
    verdict = screen(tmp_path, content)
    assert str(verdict.refused[0]) == "damaged: a vector of 3,000,000 entries (at most 200,000)"
    assert time.process_time() - began < 2


def test_mutated_files_get_a_verdict(tmp_path, good):
    random = np.random.default_rng(5)
    refused = 0
    for number in range(150):
        content = bytearray(good)
        for position in random.integers(8, len(content), 1 + number % 30):
            content[position] = random.integers(256)
        refused += not screen(tmp_path, bytes(content)).safe
    assert refused > 50
