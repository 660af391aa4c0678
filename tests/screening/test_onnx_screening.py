"""Screening of `.onnx` files: converted models are safe, harmful files are refused, and nothing raises."""

from __future__ import annotations

import time

import numpy as np
import pytest

from kdcli.screening.onnx import screen_onnx

onnx = pytest.importorskip("onnx")
helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, 1


def model_of(*nodes, weights=None, functions=(), domains=(), outputs=("y",), shape=(None, 4)):
    graph = helper.make_graph(
        nodes or [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")] if weights is None else weights,
    )
    opsets = [helper.make_opsetid(domain, 17 if not domain else 1) for domain in ("", *domains)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets)


def screen(tmp_path, model):
    path = tmp_path / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return screen_onnx(path)


def tensor(dims, kind=FLOAT, name="w", **fields):
    made = onnx.TensorProto(dims=dims, data_type=kind, name=name)
    for field, value in fields.items():
        if field == "raw_data":
            made.raw_data = value
        else:
            getattr(made, field).extend(value)
    return made


def external_tensor(name="w"):
    made = tensor([4, 4], name=name)
    made.data_location = onnx.TensorProto.EXTERNAL
    made.external_data.add(key="location", value="../../etc/passwd")
    return made


def function(name, *called, domain="mine"):
    nodes = [helper.make_node(one, ["a"], ["a"], domain=domain) for one in called]
    nodes = nodes or [helper.make_node("Relu", ["a"], ["b"])]
    return helper.make_function(domain, name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])


def call(name):
    return helper.make_node(name, ["x"], ["y"], domain="mine")


def exponential(depth=30):
    """A chain of functions that each call the next one twice: more than 2^depth nodes after inlining."""
    functions = [function(f"f{number}", f"f{number + 1}", f"f{number + 1}") for number in range(depth)]
    return model_of(call("f0"), functions=[*functions, function(f"f{depth}")], domains=("mine",))


def branch(inner):
    body = helper.make_graph([inner], "branch", [], [helper.make_tensor_value_info("z", FLOAT, None)])
    return model_of(helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body))


def create_tensor(operation, *sizes):
    made = [tensor([len(sizes)], 7, "s", int64_data=list(sizes))]
    inputs = ["s"] if operation == "ConstantOfShape" else ["x", "s"]
    return model_of(helper.make_node(operation, inputs, ["y"]), weights=made)


def constant(value):
    return model_of(helper.make_node("Constant", [], ["y"], value=value))


def sparse():
    made = model_of()
    values, indices = tensor([1], name="w", float_data=[1.0]), tensor([1], 7, int64_data=[0])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10**6, 10**6]))
    return made


HOSTILE = {
    "external": (
        lambda: model_of(weights=[external_tensor()]),
        "external-data: the tensor 'w' is stored in the file '../..",
    ),
    "external-attribute": (lambda: constant(external_tensor("c")), "external-data: the tensor 'c'"),
    "custom": (
        lambda: model_of(helper.make_node("Shell", ["x"], ["y"], domain="evil"), domains=("evil",)),
        "operation: the custom operation 'evil.Shell' is not allowed",
    ),
    "python": (
        lambda: model_of(helper.make_node("PythonOp", ["x"], ["y"], domain="com.microsoft")),
        "operation: the custom operation 'com.microsoft.PythonOp'",
    ),
    "context": (
        lambda: model_of(helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")),
        "operation: the custom operation 'com.microsoft.EPContext'",
    ),
    "branch": (
        lambda: branch(helper.make_node("Shell", [], ["z"], domain="evil")),
        "operation: the custom operation 'evil.Shell' is not allowed",
    ),
    "function-inside": (
        lambda: model_of(
            call("f"),
            functions=[
                helper.make_function(
                    "mine", "f", ["a"], ["b"], [helper.make_node("Shell", ["a"], ["b"], domain="evil")], []
                )
            ],
        ),
        "operation: the custom operation 'evil.Shell' is not allowed",
    ),
    "recursion": (
        lambda: model_of(call("f"), functions=[function("f", "g"), function("g", "f")]),
        "recursion: the function 'f' calls itself",
    ),
    "exponential": (exponential, "size: the graph expands to 3.22e+09 operations (at most 1,000,000)"),
    "more-than-a-float": (lambda: exponential(1100), "size: the graph expands to"),
    "short": (lambda: model_of(weights=[tensor([10**6, 10**6], raw_data=b"1234")]), "damaged: the tensor 'w'"),
    "empty": (lambda: model_of(weights=[tensor([10**6, 10**6])]), "damaged: the tensor 'w'"),
    "values": (lambda: model_of(weights=[tensor([10**6], float_data=[1.0])]), "damaged: the tensor 'w'"),
    "many-axes": (
        lambda: model_of(weights=[tensor([2**62] * 300, float_data=[1.0])]),
        "damaged: the tensor 'w' of shape 4611686018427387904×",
    ),
    "negative": (lambda: model_of(weights=[tensor([-1, -1], float_data=[1.0])]), "damaged: the tensor 'w'"),
    "of-shape": (lambda: create_tensor("ConstantOfShape", 10**5, 10**6), "size: ConstantOfShape creates a tensor"),
    "expand": (lambda: create_tensor("Expand", 10**5, 10**6), "size: Expand creates a tensor"),
    "random": (
        lambda: model_of(helper.make_node("RandomNormal", [], ["y"], shape=[10**6, 10**6])),
        "size: RandomNormal creates",
    ),
    "sparse": (sparse, "size: the sparse tensor 'w' has the shape 1000000×1000000"),
    "declared": (lambda: model_of(shape=(None, 10**6, 10**6)), "size: the tensor 'x' has the shape"),
    "nan": (
        lambda: model_of(weights=[numpy_helper.from_array(np.full((4, 4), np.nan, np.float32), "w")]),
        "weights: the tensor 'w' contains NaN",
    ),
    "nan-half": (
        lambda: model_of(weights=[tensor([1], 10, int32_data=[0x7E00])]),
        "weights: the tensor 'w' contains NaN",
    ),
    "cut": (lambda: model_of().SerializeToString()[:-20], "damaged: not an ONNX model"),
    "garbage": (lambda: b"\x08\x07\xff\xff\xff\xff", "damaged: not an ONNX model"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_harmful_files_are_refused_within_two_seconds(tmp_path, name):
    build, message = HOSTILE[name]
    model = build()
    began = time.process_time()
    verdict = screen(tmp_path, model)
    assert not verdict.safe
    assert str(verdict.refused[0]).startswith(message)
    assert time.process_time() - began < 2


BENIGN = {
    "matrix": lambda: model_of(),
    "own-function": lambda: model_of(call("f"), functions=[function("f", "g"), function("g")]),
    "fused": lambda: model_of(helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")),
    "branch": lambda: branch(helper.make_node("Constant", [], ["z"], value_float=1.0)),
    "small-shape": lambda: create_tensor("ConstantOfShape", 3, 5),
    "infinite": lambda: constant(tensor([2], float_data=[-np.inf, 0.0])),
    "text": lambda: constant(tensor([2], 8, string_data=[b"a", b"b"])),
    "half": lambda: constant(tensor([2], 10, int32_data=[0x3C00, 0])),
    "four-bits": lambda: constant(tensor([3], 22, int32_data=[1, 2])),
    "complex": lambda: constant(tensor([1], 14, float_data=[1.0, 2.0])),
    "nothing": lambda: constant(tensor([0], float_data=[])),
}


@pytest.mark.parametrize("name", BENIGN)
def test_benign_models_have_no_findings(tmp_path, name):
    assert screen(tmp_path, BENIGN[name]()).findings == ()


@pytest.mark.parametrize("name", ["convolutional", "attention", "recurrent"])
def test_keras_exports_have_no_findings(tmp_path, name):
    pytest.importorskip("tf2onnx")
    import warnings

    import keras

    from kdcli.lazy import silence_descriptor

    layers = keras.layers
    inputs = keras.Input((8, 8, 1) if name == "convolutional" else (6, 8))
    if name == "convolutional":
        inner = layers.Flatten()(layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs)))
    elif name == "attention":
        inner = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 4)(inputs, inputs))
    else:
        inner = layers.LSTM(4)(inputs)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(inner))
    model(np.zeros((1, *inputs.shape[1:]), np.float32))
    with silence_descriptor(1), silence_descriptor(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    assert screen_onnx(tmp_path / "model.onnx").findings == ()


def test_mutated_files_get_a_verdict(tmp_path):
    good = model_of().SerializeToString()
    random = np.random.default_rng(5)
    verdicts = []
    for number in range(150):
        content = bytearray(good)
        for position in random.integers(0, len(content), 1 + number % 10):
            content[position] = random.integers(256)
        verdicts.append(screen(tmp_path, bytes(content)).safe)
    assert verdicts.count(False) > 50


def test_without_the_package_nothing_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr("kdcli.screening.onnx.find_spec", lambda name: None)
    assert screen(tmp_path, b"\x08\x07\xff").findings == ()
