"""The child process that loads a SavedModel, or a Keras 2 file, from an unknown author and freezes it.

Loading runs what the file contains, and a damaged file may crash the process. The result is a graph of constants
that only computes, with a description of it. The request is one line of JSON on standard input; the result is two
files in a scratch folder.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.errors import KdError, ModelError, UsageError, summarize_error
from kdcli.models.saved_model.constant_function import freeze_function
from kdcli.models.saved_model.frozen_graph import DESCRIPTION_FILE, GRAPH_FILE
from kdcli.models.saved_model.signatures import LoadedSignature, load_keras_2_call, load_signature
from kdcli.models.variables import DIVERGED_HINT
from kdcli.screening.process_limits import limit_process
from kdcli.tensors import Tensor, Variable

# Sizes tried for axes of any size in a first call.
_SIDES = (32, 224, 8, 1)
_BATCH = 2
_TOLERANCE = 1e-4
# Running many constants takes minutes: larger graphs are not compared with their signature here.
_MAX_COMPARED_BYTES = 100_000_000


@dataclass(frozen=True)
class _Call:
    """One call of the signature.

    Args:
        inputs: tensors by input name.
        outputs: tensors by output name.
    """

    inputs: dict[str, Tensor]
    outputs: Mapping[str, Tensor]


def freeze(
    path: Path,
    scratch: Path,
    *,
    legacy: bool,
    signature: str | None,
    max_weight_bytes: int,
    values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Load a model and write its frozen graph.

    Args:
        path: SavedModel folder, or with `legacy` a Keras 2 file.
        scratch: folder for the graph.
        signature: name of the signature; `serving_default` or the only one if omitted.
        max_weight_bytes: bytes of weights above which the model is not frozen.
        values: fixed values of some inputs, by input name.

    Returns:
        The description that `read_frozen_graph` reads.

    Raises:
        ModelError: a weight is not finite, or the signature fails on a test batch.
        UsageError: no such signature, several to choose from, or a value that fits no input.
    """
    loaded = load_keras_2_call(path) if legacy else load_signature(path, signature)
    function = loaded.function
    weights = _find_weights(function)
    _check_finite(weights)
    inputs = _describe_tensors(function.structured_input_signature[1], function.inputs)
    fixed = _fix_inputs(inputs, values or {})
    description = _describe(loaded, weights, inputs=inputs, fixed=fixed)
    call = _call_once(function, inputs, fixed)
    if call is not None and _find_random_nodes(function.graph.as_graph_def()):
        again = function(**call.inputs)
        same = (_is_near(output.numpy(), again[name].numpy()) for name, output in call.outputs.items())
        description["random"] = not all(same)
    reason = _find_obstacle(function, weights, max_weight_bytes=max_weight_bytes)
    if reason is None:
        reason = _write_graph(function, description, scratch / GRAPH_FILE, inputs=inputs, fixed=fixed, call=call)
    description["unfrozen_reason"] = reason
    return description


def _describe(
    loaded: LoadedSignature,
    weights: Mapping[str, Variable],
    *,
    inputs: Sequence[Mapping[str, Any]],
    fixed: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    function = loaded.function
    floats = {id(variable): variable for variable in weights.values() if variable.dtype.is_floating}
    return {
        "signature": loaded.signature,
        "signatures": loaded.signatures,
        "exported": loaded.exported,
        "inputs": [tensor for tensor in inputs if tensor["name"] not in fixed],
        "outputs": _describe_tensors(function.structured_outputs, function.outputs),
        "weights": [
            {"node": node, "name": variable.name.split(":")[0], "trainable": bool(variable.trainable)}
            for node, variable in weights.items()
        ],
        "parameters": sum(map(_count_values, floats.values())) or _count_constants(function),
        "random": False,
    }


def _describe_tensors(structure: Mapping[str, Any], tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Names and tensors of inputs or outputs; TensorFlow orders both by name."""
    described = []
    for name, tensor in zip(sorted(structure), tensors, strict=False):
        shape = None if tensor.shape.rank is None else tensor.shape.as_list()
        described.append({"name": name, "tensor": tensor.name, "shape": shape, "dtype": tensor.dtype.name})
    return described


def _fix_inputs(inputs: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Fixed input values, as arrays of the inputs' types and shapes."""
    import tensorflow

    named = {tensor["name"]: tensor for tensor in inputs}
    fixed = {}
    for name, value in values.items():
        if name not in named:
            raise UsageError(f"input.values: there is no input {name!r} (got {', '.join(named)})")
        dtype = tensorflow.dtypes.as_dtype(named[name]["dtype"])
        shape = tensorflow.TensorShape(named[name]["shape"])
        where = f"input.values: the input {name}"
        try:
            array = np.array(value, dtype.as_numpy_dtype)
        except (ValueError, TypeError):
            raise UsageError(f"{where} has type {dtype.name} (got {value!r})") from None
        if shape.is_fully_defined():
            array = np.broadcast_to(array, shape.as_list())
        elif not shape.is_compatible_with(()):
            raise UsageError(f"{where} has shape {shape}, which one value does not fill")
        fixed[name] = array
    return fixed


def _find_obstacle(function: Any, weights: Mapping[str, Variable], *, max_weight_bytes: int) -> str | None:
    """Why a signature cannot become constants, as a clause; None if it can."""
    size = sum(_count_values(variable) * variable.dtype.size for variable in weights.values())
    if size > max_weight_bytes:
        return f"its weights are {size / 1e9:.1f} GB, more than can be made constants here"
    others = {id(tensor) for tensor, _ in _find_captures(function) if tensor.dtype.name in ("resource", "variant")}
    if len(others) > len({id(variable.handle) for variable in weights.values()}):
        return "it uses lookup tables, which cannot be made constants"
    return None


def _find_weights(function: Any) -> dict[str, Variable]:
    """Variables that the outputs need, by the name of the node that stands for each of them.

    A graph of TensorFlow 1 also holds the variables of its optimizer.
    """
    handles = {id(variable.handle): variable for variable in function.graph.variables}
    captures = _find_captures(function)
    return {node.op.name: handles[id(tensor)] for tensor, node in captures if id(tensor) in handles}


def _find_captures(function: Any) -> list[tuple[Tensor, Tensor]]:
    """Tensors from outside the graph that the outputs need, each with the tensor that stands for it."""
    needed = _find_needed(function)
    pairs = zip(function.captured_inputs, function.graph.internal_captures, strict=True)
    return [(tensor, node) for tensor, node in pairs if node.op in needed]


def _find_needed(function: Any) -> set[Any]:
    """The operations that the outputs need."""
    waiting, found = [tensor.op for tensor in function.outputs], set()
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting.extend([*(tensor.op for tensor in op.inputs), *op.control_inputs])
    return found


def _list_nodes(graph: Any) -> list[Any]:
    """The nodes of a `GraphDef` and of its functions."""
    return [*graph.node, *(node for body in graph.library.function for node in body.node_def)]


def _find_random_nodes(graph: Any) -> list[Any]:
    """The operations whose seed the graph leaves to TensorFlow."""
    seeded = [node for node in _list_nodes(graph) if {"seed", "seed2"} <= set(node.attr)]
    return [node for node in seeded if not (node.attr["seed"].i or node.attr["seed2"].i)]


def _count_constants(function: Any) -> int:
    """Number of values in float constants with axes: the weights of a graph that was saved frozen."""
    import tensorflow

    nodes = [op.node_def for op in _find_needed(function)]
    nodes += [node for body in function.graph.as_graph_def().library.function for node in body.node_def]
    values = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    floats = [one.tensor_shape.dim for one in values if tensorflow.dtypes.as_dtype(one.dtype).is_floating]
    return sum(math.prod(side.size for side in sides) for sides in floats if sides)


def _count_values(variable: Variable) -> int:
    return int(np.prod(variable.shape.as_list(), dtype=np.int64))


def _check_finite(weights: Mapping[str, Variable]) -> None:
    for variable in weights.values():
        if variable.dtype.is_floating and not np.isfinite(_to_numpy_type(variable.numpy())).all():
            raise ModelError(f"the weight {variable.name.split(':')[0]} holds NaN or infinity", hint=DIVERGED_HINT)


def _call_once(
    function: Any, inputs: Sequence[Mapping[str, Any]], fixed: Mapping[str, np.ndarray]
) -> _Call | None:
    """Call the signature with a test batch; None if no batch of a guessed size works.

    Raises:
        ModelError: the call fails although the shapes and types leave nothing to guess.
    """
    import tensorflow

    certain = all(
        tensor["shape"] and None not in tensor["shape"][1:] and tensor["dtype"] != "string" for tensor in inputs
    )
    failure: Exception | None = None
    for side in _SIDES:
        batch = {
            tensor["name"]: tensorflow.constant(fixed[tensor["name"]], tensor["dtype"])
            if tensor["name"] in fixed
            else _make_test_input(tensor, side)
            for tensor in inputs
        }
        try:
            return _Call(batch, function(**batch))
        # Graphs fail with every kind of exception.
        except Exception as error:
            failure = error
        if certain:
            break
    if certain and failure is not None:
        raise ModelError(f"the signature fails on a test batch: {summarize_error(failure):.300}")
    return None


def _make_test_input(tensor: Mapping[str, Any], side: int) -> Tensor:
    import tensorflow

    shape = [] if tensor["shape"] is None else list(tensor["shape"])
    shape = [(side if axis else _BATCH) if size is None else size for axis, size in enumerate(shape)]
    if tensor["dtype"] == "string":
        image = tensorflow.io.encode_jpeg(np.zeros((side, side, 3), np.uint8))
        return tensorflow.fill(shape, image)
    dtype = tensorflow.dtypes.as_dtype(tensor["dtype"])
    values = np.random.default_rng(0).random(shape) if dtype.is_floating else np.zeros(shape)
    return tensorflow.cast(tensorflow.constant(values), dtype)


def _write_graph(
    function: Any,
    description: Mapping[str, Any],
    path: Path,
    *,
    inputs: Sequence[Mapping[str, Any]],
    fixed: Mapping[str, np.ndarray],
    call: _Call | None,
) -> str | None:
    """Write the graph of constants; return why not if freezing fails or changes the outputs."""
    outputs = None
    try:
        constant = freeze_function(function)
        graph = constant.graph.as_graph_def()
        if call is not None and graph.ByteSize() <= _MAX_COMPARED_BYTES:
            outputs = constant(*(call.inputs[tensor["name"]] for tensor in inputs))
    # The conversion is internal to TensorFlow and raises anything; the signature itself still works.
    except Exception as error:
        return f"it cannot be frozen ({summarize_error(error):.120})"
    if call is not None and outputs is not None and not description["random"]:
        expected = [call.outputs[tensor["name"]] for tensor in description["outputs"]]
        if not all(_is_near(a.numpy(), b.numpy()) for a, b in zip(outputs, expected, strict=True)):
            return "its frozen graph gives other outputs"
    for node in _list_nodes(graph):
        node.device = ""
    # kd computes deterministically, for which TensorFlow requires a seed in each of them.
    for number, node in enumerate(_find_random_nodes(graph), start=1):
        node.attr["seed2"].i = number
    for tensor in inputs:
        if tensor["name"] in fixed:
            _replace_input(graph, tensor["tensor"].split(":")[0], fixed[tensor["name"]])
    path.write_bytes(graph.SerializeToString())
    return None


def _replace_input(graph: Any, name: str, value: np.ndarray) -> None:
    """Replace an input node by a constant."""
    import tensorflow

    node = next(node for node in graph.node if node.name == name)
    dtype = node.attr["dtype"].type
    node.Clear()
    node.name, node.op = name, "Const"
    node.attr["dtype"].type = dtype
    node.attr["value"].tensor.CopyFrom(tensorflow.make_tensor_proto(value, dtype))


def _is_near(first: np.ndarray, second: np.ndarray) -> bool:
    first, second = _to_numpy_type(first), _to_numpy_type(second)
    if first.dtype.kind != "f":
        return bool(np.array_equal(first, second))
    return np.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def _to_numpy_type(array: np.ndarray) -> np.ndarray:
    """The array in float32 if it has a half type that NumPy does not know (kind V)."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def handle_request(request: Mapping[str, Any]) -> None:
    """Freeze the requested model and write its description, or the error.

    Args:
        request: `path`, `scratch`, and the arguments of `freeze`.
    """
    scratch = Path(request["scratch"])
    names = ("legacy", "signature", "max_weight_bytes", "values")
    options = {name: request[name] for name in names if name in request}
    try:
        description = freeze(Path(request["path"]), scratch, **options)
    except KdError as error:
        usage = isinstance(error, UsageError)
        description = {"error": error.message, "hint": error.hint, "usage": usage}
    # Anything that TensorFlow raises means that this file does not load; the parent reports it.
    except Exception as error:
        # The user has never seen the path of the private copy.
        reason = summarize_error(error).replace(f"{request['path']}/", "")
        hint = "copy it again from its source; if it is complete, save the model again"
        description = {"error": f"the model does not load: {reason:.300}", "hint": hint, "usage": False}
    (scratch / DESCRIPTION_FILE).write_text(json.dumps(description), "utf-8")


def _run(request: Mapping[str, Any]) -> None:
    """Handle one request in a process of its own."""
    # Must be set before TensorFlow is imported.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    limit_process(memory=request["memory"], cpu_seconds=request["cpu_seconds"], file_bytes=request["file_bytes"])
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(request["threads"])
    handle_request(request)


if __name__ == "__main__":
    _run(json.loads(sys.stdin.readline()))
