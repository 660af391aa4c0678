"""Screening of `.tflite` files: what converters write passes, what could do harm is refused, nothing raises."""

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


def converted(folder, model, kind="float32", batch=None):
    """A model as the converter writes it."""
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
            shown = np.random.default_rng(1).random((20, 1, *model.inputs[0].shape[1:]), np.float32)
            converter.representative_dataset = lambda: ([one] for one in shown)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        return converter.convert()


def pictures():
    inputs = keras.Input((8, 8, 1))
    inner = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    inner = keras.layers.Flatten()(keras.layers.MaxPooling2D()(inner))
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(inner))


def attending():
    inputs = keras.Input((6, 8))
    inner = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    inner = keras.layers.LayerNormalization()(inner + inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(inner)))


def recurrent():
    layers = [keras.Input((5, 3)), keras.layers.LSTM(4), keras.layers.Dense(2)]
    return keras.Sequential(layers)


def words():
    layers = [keras.Input((5,), dtype="int32"), keras.layers.Embedding(20, 4), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    keras.utils.set_random_seed(0)
    return converted(tmp_path_factory.mktemp("good"), pictures())


def screened(tmp_path, content):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    return screen_litert(path)


BENIGN = {
    "float32": (pictures, "float32", None),
    "float16": (pictures, "float16", None),
    "dynamic": (pictures, "dynamic", None),
    "int8": (pictures, "int8", None),
    "recurrent": (recurrent, "float32", 1),
    "attention": (attending, "float32", None),
    "attention-dynamic": (attending, "dynamic", None),
    "words": (words, "float32", None),
}


@pytest.mark.parametrize("name", BENIGN)
def test_what_the_converter_writes_has_no_findings(tmp_path, name):
    build, kind, batch = BENIGN[name]
    assert screened(tmp_path, converted(tmp_path, build(), kind, batch)).findings == ()


def edited(content, change):
    """The file with its object tree changed."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def custom(name):
    def change(model):
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = 32
        code.customCode = name

    return change


def numbered(number):
    def change(model):
        model.operatorCodes[0].builtinCode = number
        model.operatorCodes[0].deprecatedBuiltinCode = min(number, 127)

    return change


def of_tensor(**values):
    def change(model):
        # A constant has a buffer with content, what lies between two layers has none.
        wants = "constant" if values.pop("constant", False) else "inner"
        for tensor in model.subgraphs[0].tensors:
            data = model.buffers[tensor.buffer].data
            if (data is not None and len(data) > 8) == (wants == "constant"):
                for name, value in values.items():
                    setattr(tensor, name, value)
                return
        raise AssertionError

    return change


def with_nan(model):
    largest = max(model.buffers, key=lambda buffer: 0 if buffer.data is None else len(buffer.data))
    largest.data = np.array(largest.data, np.uint8)
    largest.data[:4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)


def calling_itself(model):
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = 119
    model.operatorCodes.append(code)
    operator = model.subgraphs[0].operators[0]
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.builtinOptionsType, operator.builtinOptions = 93, schema.WhileOptionsT()
    operator.builtinOptions.condSubgraphIndex = operator.builtinOptions.bodySubgraphIndex = 0


def elsewhere(model):
    group = schema.ExternalBufferGroupT()
    group.name = "/etc/passwd"
    model.externalBufferGroups = [group]


def operator_with(**values):
    def change(model):
        for name, value in values.items():
            setattr(model.subgraphs[0].operators[0], name, value)

    return change


def behind(model):
    buffer = model.buffers[-1]
    buffer.data, buffer.offset, buffer.size = None, 2**40, 2**30


HOSTILE = {
    "custom": (custom("Shell"), "operation: the custom operation 'Shell' is not part of LiteRT"),
    "flex": (custom("FlexReadFile"), "operation: the TensorFlow's own operation 'FlexReadFile'"),
    "delegate": (numbered(51), "operation: the operation DELEGATE"),
    "custom-call": (numbered(173), "operation: the operation STABLEHLO_CUSTOM_CALL"),
    "unknown": (numbered(999), "operation: the operation number 999"),
    "huge": (of_tensor(shape=[1, 100_000, 100_000]), "size: the tensor"),
    "constant-bomb": (of_tensor(constant=True, shape=[2**20, 2**20]), "size: the tensor"),
    "constant-short": (of_tensor(constant=True, shape=[3, 3]), "damaged: the tensor"),
    "negative": (of_tensor(shape=[-5]), "damaged: the tensor"),
    "no-buffer": (of_tensor(buffer=10_000), "damaged: the tensor"),
    "external-buffer": (of_tensor(externalBuffer=7), "external-data: the tensor"),
    "external-files": (elsewhere, "external-data: its buffers lie in other files"),
    "nan": (with_nan, "weights: the tensor"),
    "recursion": (calling_itself, "recursion: a graph in it calls itself"),
    "no-operation": (operator_with(opcodeIndex=500), "damaged: an operation is of a kind"),
    "no-tensor": (operator_with(inputs=[9999]), "damaged: an operation takes or gives"),
    "options-behind": (operator_with(largeCustomOptionsOffset=2**40), "damaged: the options"),
    "buffer-behind": (behind, "damaged: a buffer leaves the file"),
    "no-graph": (lambda model: setattr(model, "subgraphs", []), "damaged: it has no graph"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_could_do_harm_is_refused(tmp_path, good, name):
    change, message = HOSTILE[name]
    began = time.process_time()
    verdict = screened(tmp_path, edited(good, change))
    assert not verdict.safe
    assert str(verdict.refused[0]).startswith(message)
    assert time.process_time() - began < 2


def test_an_untouched_tree_passes(tmp_path, good):
    assert screened(tmp_path, edited(good, lambda model: None)).safe


@pytest.mark.parametrize("length", [0, 3, 8, 40, 1000])
def test_a_cut_file_is_damaged(tmp_path, good, length):
    verdict = screened(tmp_path, good[:length])
    assert [finding.rule for finding in verdict.refused] == ["damaged"]


def test_a_list_as_long_as_the_file_costs_nothing(tmp_path):
    # One vector of tables, all of them the same place: each would be read again.
    count = 3_000_000
    head = struct.pack("<I4s", 20, b"TFL3") + struct.pack("<HHHHHH", 10, 8, 0, 0, 4, 0)
    content = head + struct.pack("<iII", 12, 4, count) + b"\0" * 4 * count
    began = time.process_time()
    verdict = screened(tmp_path, content)
    assert str(verdict.refused[0]) == "damaged: a list of 3000000 entries; 200000 are the most"
    assert time.process_time() - began < 2


def test_mutated_files_are_judged_and_never_raise(tmp_path, good):
    random = np.random.default_rng(5)
    refused = 0
    for number in range(150):
        content = bytearray(good)
        for position in random.integers(8, len(content), 1 + number % 30):
            content[position] = random.integers(256)
        refused += not screened(tmp_path, bytes(content)).safe
    assert refused > 50
