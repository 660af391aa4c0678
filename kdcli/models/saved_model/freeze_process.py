"""The child process that loads a stranger's SavedModel, or a file of Keras 2, and freezes it.

Loading is the dangerous part: it runs what the file says, and damaged files may end the process. What comes out
is a graph of constants that only computes, with a description of it. The request is one line of JSON on standard
input; the answer is two files in a scratch folder.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.errors import KdError, ModelError, UsageError, summarize_error
from kdcli.models.keras.model import DIVERGED_HINT
from kdcli.models.saved_model.call import load_exported, load_keras_2_call
from kdcli.models.saved_model.constant_function import freeze_function
from kdcli.models.saved_model.frozen import DESCRIPTION_FILE, GRAPH_FILE
from kdcli.screening.process_limits import limit_process

# Sizes tried on axes that take any size, when a graph is asked for the first time.
_SIDES = (32, 224, 8, 1)
_BATCH = 2
_TOLERANCE = 1e-4
# Bytes up to which a frozen graph is asked here whether it answers as the signature does.
_TRIED = 100_000_000


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
        path: a SavedModel folder, or with `legacy` a file of Keras 2.
        scratch: where the graph is written.
        signature: which one; `serving_default` or the only one when left out.
        max_weight_bytes: bytes of weights above which nothing is frozen.
        values: what some inputs hold in every answer, by name.

    Returns:
        The description that `graph_freezing` reads.

    Raises:
        ModelError: it holds weights that are not finite, or does not answer.
        UsageError: it has no such signature, or several to choose from; a value that no input takes.
    """
    loaded = load_keras_2_call(path) if legacy else load_exported(path, signature)
    function = loaded.function
    weights = _weights(function)
    _check_finite(weights)
    inputs = _described(function.structured_input_signature[1], function.inputs)
    fixed = _fixed_inputs(inputs, values or {})
    counted = [variable for variable in weights.values() if variable.dtype.is_floating]
    described: dict[str, Any] = {
        "signature": loaded.signature,
        "signatures": loaded.signatures,
        "exported": loaded.exported,
        "inputs": [given for given in inputs if given["name"] not in fixed],
        "outputs": _described(function.structured_outputs, function.outputs),
        "weights": [
            {"node": node, "name": variable.name.split(":")[0], "trainable": bool(variable.trainable)}
            for node, variable in weights.items()
        ],
        "parameters": sum(map(_count, {id(v): v for v in counted}.values())) or _constants(function),
        "unfrozen": None,
        "random": False,
    }
    probe, answers = _first_answer(function, inputs, fixed)
    if probe is not None and _random_nodes(function.graph.as_graph_def()):
        again = function(**probe)
        described["random"] = not all(_near(answers[name].numpy(), again[name].numpy()) for name in answers)
    size = sum(_count(variable) * variable.dtype.size for variable in weights.values())
    others = [tensor for tensor, _ in _captured(function) if tensor.dtype.name in ("resource", "variant")]
    if size > max_weight_bytes:
        described["unfrozen"] = f"its weights are {size / 1e9:.1f} GB, more than can be made constants here"
    elif len({id(tensor) for tensor in others}) > len({id(v.handle) for v in weights.values()}):
        described["unfrozen"] = "it looks things up in tables, which cannot be made constants"
    else:
        described["unfrozen"] = _write_frozen(
            function, described, inputs, fixed, probe, answers, scratch / GRAPH_FILE
        )
    return described


def _fixed_inputs(inputs: list[dict[str, Any]], values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The values that were given for inputs, in their types and shapes."""
    import tensorflow

    named = {given["name"]: given for given in inputs}
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
            raise UsageError(f"{where} holds {dtype.name} (got {value!r})") from None
        if shape.is_fully_defined():
            array = np.broadcast_to(array, shape.as_list())
        elif not shape.is_compatible_with(()):
            raise UsageError(f"{where} has shape {shape}, which one value does not fill")
        fixed[name] = array
    return fixed


def _random_nodes(graph: Any) -> list[Any]:
    """The operations that draw from a seed of their own which the graph leaves open."""
    nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
    return [n for n in nodes if {"seed", "seed2"} <= set(n.attr) and not (n.attr["seed"].i or n.attr["seed2"].i)]


def _weights(function: Any) -> dict[str, Any]:
    """Variables that the outputs need, by the name of the node that stands for each of them.

    A graph of TensorFlow 1 brings those of its optimizer too.
    """
    handles = {id(variable.handle): variable for variable in function.graph.variables}
    return {node.op.name: handles[id(tensor)] for tensor, node in _captured(function) if id(tensor) in handles}


def _captured(function: Any) -> list[tuple[Any, Any]]:
    """What the outputs need from outside the graph, each with the tensor that stands for it."""
    needed = _needed(function)
    pairs = zip(function.captured_inputs, function.graph.internal_captures, strict=True)
    return [(tensor, node) for tensor, node in pairs if node.op in needed]


def _needed(function: Any) -> set[Any]:
    """The operations that the outputs need."""
    waiting, found = [tensor.op for tensor in function.outputs], set()
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting.extend([*(tensor.op for tensor in op.inputs), *op.control_inputs])
    return found


def _constants(function: Any) -> int:
    """The numbers in float constants with axes: the weights of a graph that was frozen before it was saved."""
    import tensorflow

    nodes = [op.node_def for op in _needed(function)]
    nodes += [node for body in function.graph.as_graph_def().library.function for node in body.node_def]
    values = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    floats = [one.tensor_shape.dim for one in values if tensorflow.dtypes.as_dtype(one.dtype).is_floating]
    return sum(math.prod(side.size for side in sides) for sides in floats if sides)


def _count(variable: Any) -> int:
    return int(np.prod(variable.shape.as_list(), dtype=np.int64))


def _check_finite(weights: Mapping[str, Any]) -> None:
    for variable in weights.values():
        if variable.dtype.is_floating and not np.isfinite(_known(variable.numpy())).all():
            raise ModelError(f"the weight {variable.name.split(':')[0]} holds NaN or infinity", hint=DIVERGED_HINT)


def _described(structure: Mapping[str, Any], tensors: Any) -> list[dict[str, Any]]:
    """Names and tensors of inputs or outputs; TensorFlow orders both by name."""
    described = []
    for name, tensor in zip(sorted(structure), tensors, strict=False):
        rank = tensor.shape.rank
        shape = None if rank is None else tensor.shape.as_list()
        described.append({"name": name, "tensor": tensor.name, "shape": shape, "dtype": tensor.dtype.name})
    return described


def _first_answer(
    function: Any, inputs: list[dict[str, Any]], fixed: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any] | None, Any]:
    """An input that the signature answers, with its answer; nothing where no such input can be guessed."""
    sure = all(
        given["shape"] and None not in given["shape"][1:] and given["dtype"] != "string" for given in inputs
    )
    import tensorflow

    failure: Exception | None = None
    for side in _SIDES:
        probe = {
            given["name"]: tensorflow.constant(fixed[given["name"]], given["dtype"])
            if given["name"] in fixed
            else _probe(given, side)
            for given in inputs
        }
        try:
            return probe, function(**probe)
        # Graphs fail with every kind of exception.
        except Exception as error:
            failure = error
        if sure:
            break
    if sure and failure is not None:
        reason = summarize_error(failure)
        raise ModelError(f"the signature does not answer a batch of zeros: {reason:.300}")
    return None, None


def _probe(given: Mapping[str, Any], side: int) -> Any:
    import tensorflow

    shape = [] if given["shape"] is None else list(given["shape"])
    shape = [(side if axis else _BATCH) if size is None else size for axis, size in enumerate(shape)]
    if given["dtype"] == "string":
        picture = tensorflow.io.encode_jpeg(np.zeros((side, side, 3), np.uint8))
        return tensorflow.fill(shape, picture)
    dtype = tensorflow.dtypes.as_dtype(given["dtype"])
    drawn = np.random.default_rng(0).random(shape) if dtype.is_floating else np.zeros(shape)
    return tensorflow.cast(tensorflow.constant(drawn), dtype)


def _write_frozen(
    function: Any,
    described: Mapping[str, Any],
    inputs: list[dict[str, Any]],
    fixed: Mapping[str, np.ndarray],
    probe: dict[str, Any] | None,
    answers: Any,
    path: Path,
) -> str | None:
    """Write the graph of constants; why not, where that fails or it answers otherwise than the signature."""
    try:
        constant = freeze_function(function)
        graph = constant.graph.as_graph_def()
        # Running many constants takes minutes: large graphs are asked first by whoever reads them.
        tried = probe is not None and graph.ByteSize() <= _TRIED
        answered = constant(*(probe[given["name"]] for given in inputs)) if tried and probe else None
    # The conversion is TensorFlow's own and raises whatever it meets; the signature itself still answers.
    except Exception as error:
        return f"it cannot be frozen ({summarize_error(error):.120})"
    if answered is not None and not described["random"]:
        wanted = [answers[given["name"]] for given in described["outputs"]]
        if not all(_near(a.numpy(), b.numpy()) for a, b in zip(answered, wanted, strict=True)):
            return "its frozen graph answers differently"
    for node in (*graph.node, *(node for body in graph.library.function for node in body.node_def)):
        node.device = ""
    # kd computes deterministically, and TensorFlow then wants a seed in each of them.
    for number, node in enumerate(_random_nodes(graph), start=1):
        node.attr["seed2"].i = number
    for given in inputs:
        if given["name"] in fixed:
            _fix(graph, given, fixed[given["name"]])
    path.write_bytes(graph.SerializeToString())
    return None


def _fix(graph: Any, given: Mapping[str, Any], value: np.ndarray) -> None:
    """Put a constant in the place of an input."""
    import tensorflow

    node = next(one for one in graph.node if one.name == given["tensor"].split(":")[0])
    dtype = node.attr["dtype"].type
    node.Clear()
    node.name, node.op = given["tensor"].split(":")[0], "Const"
    node.attr["dtype"].type = dtype
    node.attr["value"].tensor.CopyFrom(tensorflow.make_tensor_proto(value, dtype))


def _near(first: np.ndarray, second: np.ndarray) -> bool:
    first, second = _known(first), _known(second)
    if first.dtype.kind != "f":
        return bool(np.array_equal(first, second))
    return np.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def _known(array: np.ndarray) -> np.ndarray:
    """Half types that numpy does not know are of kind V."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def handle_request(request: Mapping[str, Any]) -> None:
    """Freeze what the request names and describe it, or say why not.

    Args:
        request: `path`, `scratch`, and the arguments of `freeze`.
    """
    scratch = Path(request["scratch"])
    asked = {name: request[name] for name in ("legacy", "signature", "largest", "values") if name in request}
    try:
        described = freeze(Path(request["path"]), scratch, **asked)
    except KdError as refused:
        described = {"error": refused.message, "hint": refused.hint, "usage": isinstance(refused, UsageError)}
    # Whatever TensorFlow raises means that this file does not load; the parent says so.
    except Exception as error:
        # The folder is a private copy that nobody has named.
        reason = summarize_error(error).replace(f"{request['path']}/", "")
        hint = "copy it again from where it came from; if it is whole, save the model anew"
        described = {"error": f"it does not load: {reason:.300}", "hint": hint, "usage": False}
    (scratch / DESCRIPTION_FILE).write_text(json.dumps(described), "utf-8")


def _alone(request: Mapping[str, Any]) -> None:
    """Serve in a process that was made for nothing else."""
    # What libraries write about themselves belongs to nobody.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    limit_process(memory=request["memory"], cpu_seconds=request["cpu_seconds"], file_bytes=request["file_bytes"])
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(request["threads"])
    handle_request(request)


if __name__ == "__main__":
    _alone(json.loads(sys.stdin.readline()))
