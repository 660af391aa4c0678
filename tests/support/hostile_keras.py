"""Hostile Keras files: each writes a marker, reads a file outside, or exhausts the machine.

Each is built by hand from the parts of a small model and has exactly one fault.
"""

from __future__ import annotations

import base64
import json
import marshal
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"
Maker = Callable[[Path], None]
# By name: suffix, rule that refuses the file, and the function that writes it; the marker is next to the file.
HOSTILE: dict[str, tuple[str, str, Maker]] = {}


def marker(path: Path) -> Path:
    """The marker that the file at this path would write."""
    return path.with_name("marker")


def write_outside_file(path: Path) -> Path:
    """Write a file that the model must not read."""
    target = path.with_name("outside.h5")
    with h5py.File(target, "w") as file:
        file["secret"] = np.ones((4, 3), np.float32)
    return target


def keras_object(
    kind: Any, config: dict[str, Any], *, module: Any = "keras.layers", **more: Any
) -> dict[str, Any]:
    """An object in the format of Keras 3."""
    return {"module": module, "class_name": kind, "config": config, "registered_name": None, **more}


def function(name: str, *, module: str = "builtins") -> dict[str, Any]:
    """A function in the format of Keras 3."""
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def marshal_lambda(path: Path) -> dict[str, Any]:
    """A lambda in the format of Keras that writes the marker."""
    made = eval(f"lambda x: (open({str(marker(path))!r}, 'w').close(), x)[1]")
    text = base64.b64encode(marshal.dumps(made.__code__)).decode()
    return {"class_name": "__lambda__", "config": {"code": text, "defaults": None, "closure": None}}


def sequential(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A model of layers with four inputs."""
    first = keras_object("InputLayer", {"batch_shape": [None, 4], "dtype": "float32", "name": "x"})
    return keras_object("Sequential", {"name": "model", "layers": [first, *layers]}, module="keras", **more)


def dense(**config: Any) -> dict[str, Any]:
    """A dense layer with three outputs."""
    made = {"name": "dense", "units": 3, **config}
    return keras_object("Dense", made, build_config={"input_shape": [None, 4]})


def weights(path: Path, fill: Callable[[h5py.File], None] | None = None) -> bytes:
    """The weights of the dense layer; `fill` adds to them."""
    scratch = path.with_name("scratch.h5")
    with h5py.File(scratch, "w") as file:
        held = file.create_group("layers/dense/vars")
        held["0"], held["1"] = np.ones((4, 3), np.float32), np.zeros(3, np.float32)
        if fill is not None:
            fill(file)
    content = scratch.read_bytes()
    scratch.unlink()
    return content


def write_keras(path: Path, config: Any, *, content: bytes | None = None, **members: bytes) -> None:
    """Write an archive; keyword arguments replace or add members, with dots written as `__`."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    held = {METADATA: b'{"keras_version": "3.15.1"}', CONFIG: text, WEIGHTS: content or weights(path)}
    held |= {name.replace("__", "."): value for name, value in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in held.items():
            archive.writestr(name, value)


def write_h5(path: Path, config: Any, fill: Callable[[h5py.File], None] | None = None) -> None:
    """Write a `.h5` file in the format of Keras 2."""
    with h5py.File(path, "w") as file:
        if config is not None:
            file.attrs["model_config"] = config if isinstance(config, str | bytes) else json.dumps(config)
        file.attrs["keras_version"] = "2.15.0"
        group = file.create_group("model_weights/dense")
        group["kernel"], group["bias"] = np.ones((4, 3), np.float32), np.zeros(3, np.float32)
        group.attrs["weight_names"] = [b"kernel", b"bias"]
        file["model_weights"].attrs["layer_names"] = [b"dense"]
        if fill is not None:
            fill(file)


def old(*layers: dict[str, Any]) -> dict[str, Any]:
    """A model of layers in the format of Keras 2, without modules."""
    shape = {"batch_input_shape": [None, 4], "dtype": "float32", "name": "x"}
    first = {"class_name": "InputLayer", "config": shape}
    return {"class_name": "Sequential", "config": {"name": "model", "layers": [first, *layers]}}


def old_dense(**config: Any) -> dict[str, Any]:
    """The dense layer in the format of Keras 2."""
    return {"class_name": "Dense", "config": {"name": "dense", "units": 3, **config}}


def _add(name: str, rule: str, make: Maker, *, suffix: str = ".keras") -> None:
    assert name not in HOSTILE
    HOSTILE[name] = (suffix, rule, make)


def _config(name: str, rule: str, make: Callable[[Path], Any]) -> None:
    _add(name, rule, lambda path: write_keras(path, make(path)))


def _old(name: str, rule: str, make: Callable[[Path], Any]) -> None:
    _add(name, rule, lambda path: write_h5(path, make(path)), suffix=".h5")


def _lambda(path: Path) -> dict[str, Any]:
    return keras_object("Lambda", {"name": "scale", "function": marshal_lambda(path), "arguments": {}})


# Code in every place where Keras would deserialize it.
_config("lambda", "lambda", lambda path: sequential(_lambda(path)))
_config("lambda-named-function", "lambda", lambda path: sequential(
    keras_object("Lambda", {"name": "run", "function": function("system", module="os")})))  # fmt: skip
_config("lambda-as-activation", "lambda", lambda path: sequential(dense(activation=marshal_lambda(path))))
_config("lambda-in-initialiser", "lambda", lambda path: sequential(dense(kernel_initializer=marshal_lambda(path))))
_config("lambda-in-regulariser", "lambda", lambda path: sequential(dense(kernel_regularizer=marshal_lambda(path))))
_config("lambda-in-time-distributed", "lambda", lambda path: sequential(
    keras_object("TimeDistributed", {"name": "each", "layer": _lambda(path)})))  # fmt: skip
_config("lambda-in-bidirectional", "lambda", lambda path: sequential(keras_object("Bidirectional", {
    "name": "both", "layer": keras_object("LSTM", {"units": 2}), "backward_layer": _lambda(path)})))  # fmt: skip
_config("lambda-in-inner-model", "lambda", lambda path: sequential(sequential(dense(), _lambda(path))))
_config("lambda-in-inner-compile-config", "lambda", lambda path: sequential(
    sequential(dense(), compile_config={"optimizer": "sgd", "loss": marshal_lambda(path)})))  # fmt: skip
_config("lambda-in-build-config", "lambda", lambda path: sequential(
    {**dense(), "build_config": {"input_shape": marshal_lambda(path)}}))  # fmt: skip
_config("lambda-in-arguments", "lambda", lambda path: sequential(
    {**dense(), "inbound_nodes": [{"args": [marshal_lambda(path)], "kwargs": {}}]}))  # fmt: skip
_config("lambda-in-standardize", "lambda", lambda path: sequential(
    keras_object("TextVectorization", {"name": "words", "standardize": marshal_lambda(path)})))  # fmt: skip
_config("os-system", "class", lambda path: sequential(dense(activation=function("system", module="os"))))
_config("builtins-exec", "class", lambda path: sequential(dense(activation=function("exec"))))
_config("builtins-class", "class", lambda path: sequential(
    keras_object("exec", {"name": f"open({str(marker(path))!r}, 'w')"}, module="builtins")))  # fmt: skip
_config("subprocess-class", "class", lambda path: sequential(
    keras_object("Popen", {"args": ["touch", str(marker(path))]}, module="subprocess")))  # fmt: skip
_config("get-file", "class", lambda path: sequential(
    dense(activation=function("get_file", module="keras.utils"))))  # fmt: skip
_config("load-model", "class", lambda path: sequential(
    dense(activation=function("load_model", module="keras.models"))))  # fmt: skip
_config("unsafe-setting", "class", lambda path: sequential(
    dense(activation=function("enable_unsafe_deserialization", module="keras.config"))))  # fmt: skip
_config("deserialize-as-class", "class", lambda path: old({"class_name": "deserialize", "config": {
    "config": _lambda(path)}}))  # fmt: skip
_config("other-package", "class", lambda path: sequential(
    keras_object("Backbone", {"name": "b"}, module="keras_hub.models")))  # fmt: skip
_config("custom-layer", "class", lambda path: sequential(
    {**keras_object("Mine", {"name": "mine"}, module="mine"), "registered_name": "my_package>Mine"}))  # fmt: skip
_config("other-registered-name", "class", lambda path: sequential({**dense(), "registered_name": "evil>Dense"}))
_config("internal-module", "class", lambda path: sequential(
    keras_object("Variable", {"name": "v"}, module="keras.src.backend")))  # fmt: skip
_config("function-operation", "class", lambda path: sequential(
    keras_object("Map", {"name": "map"}, module="keras.src.ops.core")))  # fmt: skip
_config("class-name-is-a-list", "class", lambda path: sequential(keras_object(["Dense"], {})))
_config("module-is-a-dict", "class", lambda path: sequential(keras_object("Dense", {}, module={"a": 1})))
_config("type-spec", "class", lambda path: sequential(dense(activation={
    "class_name": "__typespec__", "spec_name": "TensorSpec", "module": "tensorflow.python.framework.tensor",
    "config": [[1], "float32"], "registered_name": None})))  # fmt: skip
_config("array-of-long-texts", "class", lambda path: sequential(dense(kernel_initializer={
    "class_name": "__numpy__", "config": {"value": [["a"]], "dtype": "U500000000"}})))  # fmt: skip
_config("saved-model-layer", "code", lambda path: sequential(
    keras_object("TFSMLayer", {"name": "s", "filepath": "/tmp/other", "call_endpoint": "serve"})))  # fmt: skip
_config("torch-layer", "code", lambda path: sequential(
    keras_object("TorchModuleWrapper", {"name": "t", "module": "gASV"})))  # fmt: skip
_config("jax-layer", "code", lambda path: sequential(keras_object("JaxLayer", {"name": "j", "call_fn": "x"})))
_config("flax-layer", "code", lambda path: sequential(keras_object("FlaxLayer", {"name": "f", "module": "x"})))
_old("old-lambda", "lambda", lambda path: old(old_dense(), {"class_name": "Lambda", "config": {
    "name": "run", "function_type": "lambda",
    "function": [marshal_lambda(path)["config"]["code"], None, None]}}))  # fmt: skip
_old("old-lambda-in-wrapper", "lambda", lambda path: old({"class_name": "TimeDistributed", "config": {
    "name": "w", "layer": {"class_name": "Lambda", "config": {"function": "system"}}}}))  # fmt: skip
_old("old-deserialize", "class", lambda path: old({"class_name": "deserialize", "config": {
    "name": "d", "config": _lambda(path)}}))  # fmt: skip
_old("old-custom-layer", "class", lambda path: old({"class_name": "Mine", "config": {"name": "m"}}))
_old("old-graph-operation", "code", lambda path: old({"class_name": "TensorFlowOpLayer", "config": {
    "name": "op", "node_def": "WriteFile", "constants": {}}}))  # fmt: skip
_old("old-function", "operation", lambda path: old({"class_name": "TFOpLambda", "config": {
    "name": "write", "function": "io.write_file"}}))  # fmt: skip
_old("old-type-spec", "class", lambda path: old(old_dense(shape={
    "class_name": "TypeSpec", "type_spec": "tf.TensorSpec", "serialized": []})))  # fmt: skip

# Paths of other files.
_config("vocabulary-path", "outside-file", lambda path: sequential(
    keras_object("StringLookup", {"name": "words", "vocabulary": "/etc/passwd"})))  # fmt: skip
_config("integer-vocabulary-url", "outside-file", lambda path: sequential(
    keras_object("IntegerLookup", {"name": "numbers", "vocabulary": "gs://bucket/numbers"})))  # fmt: skip
_config("text-vocabulary-path", "outside-file", lambda path: sequential(sequential(
    keras_object("TextVectorization", {"name": "text", "vocabulary": "../secret.txt"}))))  # fmt: skip
_old("old-vocabulary-path", "outside-file", lambda path: old({"class_name": "StringLookup", "config": {
    "name": "words", "vocabulary": "/etc/passwd"}}))  # fmt: skip

# Numbers that exhaust the machine.
_config("dense-of-a-billion", "size", lambda path: sequential(dense(units=10**9)))
_config("dense-below-the-largest-number", "size", lambda path: sequential(dense(units=9_000_000)))
_config("dense-of-many", "size", lambda path: sequential(*(dense(units=900_000, name=f"d{n}") for n in range(20))))
_config("dense-built-wide", "size", lambda path: sequential(
    {**dense(units=9000), "build_config": {"input_shape": [None, 9000]}}))  # fmt: skip
_config("embedding-of-a-billion", "size", lambda path: sequential(
    keras_object("Embedding", {"name": "e", "input_dim": 9_000_000, "output_dim": 4096})))  # fmt: skip
_config("attention-heads", "size", lambda path: sequential(
    keras_object("MultiHeadAttention", {"name": "a", "num_heads": 9_000_000, "key_dim": 64})))  # fmt: skip
_config("recurrent-units", "size", lambda path: sequential(keras_object("LSTM", {"name": "l", "units": 100_000})))
_config("kernel-size", "size", lambda path: sequential(
    keras_object("Conv3D", {"name": "c", "filters": 1000, "kernel_size": [300, 300, 300]})))  # fmt: skip
_config("input-of-a-billion", "size", lambda path: sequential(
    keras_object("InputLayer", {"name": "i", "batch_shape": [None, 100_000, 100_000]})))  # fmt: skip
_config("built-for-a-billion", "size", lambda path: sequential(keras_object(
    "Normalization", {"name": "n", "mean": 0.0, "variance": 1.0},
    build_config={"input_shape": [None, 10**10]})))  # fmt: skip
_config("padding", "size", lambda path: sequential(
    keras_object("ZeroPadding2D", {"name": "p", "padding": [[10**9, 0], [0, 0]]})))  # fmt: skip
_config("repeating", "size", lambda path: sequential(keras_object("RepeatVector", {"name": "r", "n": 10**9})))
_config("resizing", "size", lambda path: sequential(
    keras_object("Resizing", {"name": "r", "height": 10**8, "width": 10**8})))  # fmt: skip
_config("up-sampling", "size", lambda path: sequential(
    keras_object("UpSampling2D", {"name": "u", "size": [100_000, 100_000]})))  # fmt: skip
_config("one-hot", "size", lambda path: sequential(
    keras_object("CategoryEncoding", {"name": "c", "num_tokens": 10**10, "output_mode": "one_hot"})))  # fmt: skip
_config("n-grams", "size", lambda path: sequential(
    keras_object("TextVectorization", {"name": "t", "ngrams": 10**7})))  # fmt: skip
_config("tiling", "size", lambda path: sequential(keras_object(
    "Tile", {"name": "t"}, module="keras.src.ops.numpy",
    inbound_nodes=[{"args": [1, [1, 10**9]], "kwargs": {}}])))  # fmt: skip
_config("infinite-units", "size", lambda path: sequential(dense(units=float("inf"))))
_config("doubling-layers", "size", lambda path: _doubled(30))
_config("calls-of-calls", "size", lambda path: _called(18))
_old(
    "old-stateful-batch",
    "size",
    lambda path: old(
        {"class_name": "LSTM", "config": {"units": 4, "stateful": True, "batch_input_shape": [10**6, 5, 3]}}
    ),
)
_old("old-dense-of-a-billion", "size", lambda path: old(old_dense(units=10**9)))
_old("old-input-shape", "size", lambda path: old(old_dense(batch_input_shape=[None, 10**11])))


def _doubled(levels: int) -> dict[str, Any]:
    layer = keras_object("LSTM", {"units": 2, "name": "inside"})
    for level in range(levels):
        layer = keras_object("Bidirectional", {"layer": layer, "name": f"both_{level}"})
    return sequential(layer)


def _called(levels: int) -> dict[str, Any]:
    model: dict[str, Any] = keras_object("Dense", {"name": "d", "units": 4}, inbound_nodes=[{}, {}])
    for level in range(levels):
        config = {"name": f"m{level}", "layers": [model], "input_layers": [], "output_layers": []}
        model = keras_object("Functional", config, module="keras.src.models.functional", inbound_nodes=[{}, {}])
    return model


# Texts that are not valid configurations.
_add("duplicate-keys", "unreadable", lambda path: write_keras(
    path, b'{"class_name": "Sequential", "config": {}, "class_name": "Lambda", "module": "keras"}'))  # fmt: skip
_add("deep", "unreadable", lambda path: write_keras(path, b'{"a":' * 100_000 + b"1" + b"}" * 100_000))
_add("deep-enough", "unreadable", lambda path: write_keras(path, b"[" * 300 + b"]" * 300))
_add("many-values", "unreadable", lambda path: write_keras(path, b"[" + b"0," * 5_000_000 + b"0]"))
_add("no-text", "unreadable", lambda path: write_keras(path, b"\xff\xfe\x00{}"))
_add("long-number", "unreadable", lambda path: write_keras(path, b'{"a": ' + b"9" * 100_000 + b"}"))
_add("no-model", "unreadable", lambda path: write_keras(path, [1, 2]))
_add("old-duplicate-keys", "unreadable", lambda path: write_h5(
    path, b'{"class_name": "Sequential", "config": {}, "config": []}'), suffix=".h5")  # fmt: skip


# Archives.
def _archive(name: str, rule: str, change: Callable[[zipfile.ZipFile, Path], None], *, edit: Any = None) -> None:
    def make(path: Path) -> None:
        write_keras(path, sequential(dense()))
        with zipfile.ZipFile(path, "a") as archive:
            change(archive, path)
        if edit is not None:
            path.write_bytes(edit(path.read_bytes()))

    _add(name, rule, make)


def _member(name: str, content: bytes = b"x", **attributes: Any) -> Callable[[zipfile.ZipFile, Path], None]:
    def change(archive: zipfile.ZipFile, path: Path) -> None:
        info = zipfile.ZipInfo(name)
        info.compress_type = attributes.get("method", zipfile.ZIP_STORED)
        info.external_attr = attributes.get("mode", 0o100600) << 16
        archive.writestr(info, content)

    return change


def _set_encrypted(content: bytes) -> bytes:
    """Set the encryption flag of every member."""
    changed = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(mark)
        while place >= 0:
            changed[place + offset] |= 1
            place = content.find(mark, place + 4)
    return bytes(changed)


def _twice(archive: zipfile.ZipFile, path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(CONFIG, json.dumps(sequential(_lambda(path))))


def _nothing(archive: zipfile.ZipFile, path: Path) -> None:
    """Leave the archive unchanged."""


_archive("traversal", "path", _member("assets/../../../marker"))
_archive("absolute", "path", _member("/tmp/marker"))
_archive("backslash", "path", _member("assets\\..\\..\\marker"))
_archive("drive", "path", _member("C:/marker"))
_archive("link-member", "link", _member("assets/layers/lookup", b"/etc/passwd", mode=0o120777))
_archive("device-member", "link", _member("assets/layers/lookup", mode=0o020600))
_archive("duplicate-config", "duplicate", _twice)
_archive("duplicate-in-capitals", "duplicate", _member("CONFIG.JSON", b"{}"))
_archive("encrypted", "encrypted", _nothing, edit=_set_encrypted)
_archive("other-compression", "compression", _member("assets/a", b"x" * 9, method=zipfile.ZIP_LZMA))
_archive("asset-bomb", "size", _member("assets/vocabulary.txt", bytes(80_000_000), method=zipfile.ZIP_DEFLATED))
_archive("line-bomb", "size", _member("assets/vocabulary.txt", b"\n" * 4_000_000, method=zipfile.ZIP_DEFLATED))
_archive(
    "many-members", "size", lambda archive, path: [archive.writestr(f"assets/{n}", b"") for n in range(11_000)]
)  # type: ignore[arg-type, return-value]
_archive(
    "wrong-checksum", "unreadable", _nothing, edit=lambda content: content.replace(b'"units": 3', b'"units": 4')
)
_archive("half", "unreadable", _nothing, edit=lambda content: content[: len(content) // 2])
_add("weights-bomb", "size", lambda path: _packed(path, bytes(60_000_000)))
_add("config-bomb", "size", lambda path: write_keras(path, b" " * 40_000_000))
_add("metadata-bomb", "size", lambda path: write_keras(path, sequential(dense()), metadata__json=b" " * 2_000_000))
_add("no-weights", "unreadable", lambda path: _without_weights(path))
_add("understated", "unreadable", lambda path: _understated(path))


def _packed(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CONFIG, json.dumps(sequential(dense())))
        archive.writestr(WEIGHTS, content)


def _without_weights(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(CONFIG, json.dumps(sequential(dense())))
        archive.writestr("model.weights.npz", b"x")


def _understated(path: Path) -> None:
    """A member whose header states less than its unpacked size."""
    _packed(path, bytes(5_000_000))
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.rfind(mark)
        content[place + offset : place + offset + 4] = struct.pack("<I", 1000)
    path.write_bytes(bytes(content))


# Weights.
def _weights(name: str, rule: str, fill: Callable[[h5py.File, Path], Any]) -> None:
    """The same fault in the weights of a `.keras` file and in a `.h5` file."""
    _add(name, rule, lambda path: write_keras(
        path, sequential(dense()), content=weights(path, lambda file: fill(file, path))))  # fmt: skip
    _add(f"old-{name}", rule, lambda path: write_h5(
        path, old(old_dense()), lambda file: fill(file, path)), suffix=".h5")  # fmt: skip


def _set(file: h5py.File, name: str, value: Any) -> None:
    file[name] = value


def _external_storage(file: h5py.File, path: Path) -> None:
    file.create_dataset("more", (4, 3), "f4", external=[(str(write_outside_file(path)), 0, 48)])


def _virtual(file: h5py.File, path: Path) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(str(write_outside_file(path)), "secret", (4, 3))
    file.create_virtual_dataset("more", layout)


def _filtered(file: h5py.File, path: Path) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((4,))
    made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(file.id, b"more", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), made)


def _cycle(file: h5py.File, path: Path) -> None:
    file["again"] = file["/"]


def _deep(file: h5py.File, path: Path) -> None:
    file.create_group("/".join("a" * 100))


def _texts(file: h5py.File, path: Path) -> None:
    """An attribute of many long texts."""
    kind = h5py.string_dtype()
    file.attrs.create("names", ["x" * 60_000] * 1200, dtype=kind)


_weights("external-link", "external-link", lambda file, path: _set(
    file, "more", h5py.ExternalLink(str(write_outside_file(path)), "secret")))  # fmt: skip
_weights("soft-link", "soft-link", lambda file, path: _set(file, "more", h5py.SoftLink("/layers")))
_weights("external-storage", "external-storage", _external_storage)
_weights("virtual-dataset", "virtual-dataset", _virtual)
_weights("filter-library", "filter", _filtered)
_weights("link-cycle", "link-cycle", _cycle)
_weights("deep-groups", "damaged", _deep)
_weights("never-written", "size", lambda file, path: file.create_dataset("more", (40_000, 40_000), "f4"))
_weights("compressed-bomb", "size", lambda file, path: file.create_dataset(
    "more", data=np.zeros((4000, 8000), np.float32), compression="gzip"))  # fmt: skip
_weights("large-chunk", "size", lambda file, path: file.create_dataset(
    "more", (4,), "f4", maxshape=(None,), chunks=(250_000_000,)))  # fmt: skip
_weights("references", "type", lambda file, path: file.create_dataset("more", (2,), h5py.ref_dtype))
_weights("texts", "type", lambda file, path: file.create_dataset("more", (2,), h5py.string_dtype()))
_weights("named-type", "type", lambda file, path: _set(file, "more", np.dtype("f4")))
_weights("compound", "type", lambda file, path: file.create_dataset("more", (2,), [("a", "f4"), ("b", "i4")]))
_weights("attribute-bomb", "size", _texts)
_weights("attribute-reference", "type", lambda file, path: file.attrs.create(
    "to", file.ref, dtype=h5py.ref_dtype))  # fmt: skip
_add("old-no-model", "no-model", lambda path: write_h5(path, None), suffix=".h5")
_add(
    "weights-are-not-hdf5", "unreadable", lambda path: write_keras(path, sequential(dense()), content=b"x" * 5000)
)
_add("old-half", "unreadable", lambda path: _halved(path), suffix=".h5")


def _halved(path: Path) -> None:
    write_h5(path, old(old_dense()))
    path.write_bytes(path.read_bytes()[:3000])
