"""The child process that loads a stranger's SavedModel, or a file of Keras 2, and freezes it.

Loading is the dangerous part: it runs what the file says, and damaged files may end the process. What comes out
is a graph of constants that only computes, with a description of it. The request is one line of JSON on standard
input; the answer is two files in a scratch folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.errors import KdError, ModelError, UsageError, first_line
from kdcli.models.graph_constants import frozen
from kdcli.models.graph_loading import load_exported, load_keras_2
from kdcli.screening.limits import limit

DESCRIPTION, GRAPH = "description.json", "graph.pb"
# Sizes tried on axes that take any size, when a graph is asked for the first time.
_SIDES = (32, 224, 8, 1)
_BATCH = 2
_TOLERANCE = 1e-4
# Bytes up to which a frozen graph is asked here whether it answers as the signature does.
_TRIED = 100_000_000


def freeze(path: Path, scratch: Path, *, legacy: bool, signature: str | None, largest: int) -> dict[str, Any]:
    """Load a model and write its frozen graph.

    Args:
        path: a SavedModel folder, or with `legacy` a file of Keras 2.
        scratch: where the graph is written.
        signature: which one; `serving_default` or the only one when left out.
        largest: bytes of weights above which nothing is frozen.

    Returns:
        The description that `graph_freezing` reads.

    Raises:
        ModelError: it holds weights that are not finite, or does not answer.
        UsageError: it has no such signature, or several to choose from.
    """
    loaded = load_keras_2(path) if legacy else load_exported(path, signature)
    function = loaded.function
    weights = _weights(function)
    _check_finite(weights)
    described: dict[str, Any] = {
        "signature": loaded.signature,
        "signatures": loaded.signatures,
        "exported": loaded.exported,
        "inputs": _described(function.structured_input_signature[1], function.inputs),
        "outputs": _described(function.structured_outputs, function.outputs),
        "weights": [
            {"node": node, "name": variable.name.split(":")[0], "trainable": bool(variable.trainable)}
            for node, variable in weights.items()
        ],
        "parameters": sum(_count(v) for v in {id(v): v for v in weights.values()}.values() if v.dtype.is_floating),
        "unfrozen": None,
    }
    probe, answers = _first_answer(function, described["inputs"])
    size = sum(_count(variable) * variable.dtype.size for variable in weights.values())
    others = [tensor for tensor in function.captured_inputs if tensor.dtype.name in ("resource", "variant")]
    if size > largest:
        described["unfrozen"] = f"its weights are {size / 1e9:.1f} GB, more than can be made constants here"
    elif len({id(tensor) for tensor in others}) > len({id(v.handle) for v in weights.values()}):
        described["unfrozen"] = "it looks things up in tables, which cannot be made constants"
    else:
        described["unfrozen"] = _write_frozen(function, described, probe, answers, scratch / GRAPH)
    return described


def _weights(function: Any) -> dict[str, Any]:
    """Variables by the name of the node that stands for each of them."""
    handles = {id(variable.handle): variable for variable in function.graph.variables}
    captured = zip(function.captured_inputs, function.graph.internal_captures, strict=True)
    return {node.name.split(":")[0]: handles[id(tensor)] for tensor, node in captured if id(tensor) in handles}


def _count(variable: Any) -> int:
    return int(np.prod(variable.shape.as_list(), dtype=np.int64))


def _check_finite(weights: Mapping[str, Any]) -> None:
    for variable in weights.values():
        if variable.dtype.is_floating and not np.isfinite(_known(variable.numpy())).all():
            raise ModelError(f"the weight {variable.name.split(':')[0]} holds NaN or infinity")


def _described(structure: Mapping[str, Any], tensors: Any) -> list[dict[str, Any]]:
    """Names and tensors of inputs or outputs; TensorFlow orders both by name."""
    described = []
    for name, tensor in zip(sorted(structure), tensors, strict=False):
        rank = tensor.shape.rank
        shape = None if rank is None else tensor.shape.as_list()
        described.append({"name": name, "tensor": tensor.name, "shape": shape, "dtype": tensor.dtype.name})
    return described


def _first_answer(function: Any, inputs: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, Any]:
    """An input that the signature answers, with its answer; nothing where no such input can be guessed."""
    sure = all(
        given["shape"] and None not in given["shape"][1:] and given["dtype"] != "string" for given in inputs
    )
    failure: Exception | None = None
    for side in _SIDES:
        probe = {given["name"]: _probe(given, side) for given in inputs}
        try:
            return probe, function(**probe)
        # Graphs fail with every kind of exception.
        except Exception as error:
            failure = error
        if sure:
            break
    if sure and failure is not None:
        reason = first_line(failure)
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
    function: Any, described: Mapping[str, Any], probe: dict[str, Any] | None, answers: Any, path: Path
) -> str | None:
    """Write the graph of constants; why not, where that fails or it answers otherwise than the signature."""
    try:
        constant = frozen(function)
        graph = constant.graph.as_graph_def()
        # Running many constants takes minutes: large graphs are asked first by whoever reads them.
        tried = probe is not None and graph.ByteSize() <= _TRIED
        answered = constant(*(probe[given["name"]] for given in described["inputs"])) if tried and probe else None
    # The conversion is TensorFlow's own and raises whatever it meets; the signature itself still answers.
    except Exception as error:
        return f"it cannot be frozen ({first_line(error):.120})"
    if answered is not None:
        wanted = [answers[given["name"]] for given in described["outputs"]]
        if not all(_near(a.numpy(), b.numpy()) for a, b in zip(answered, wanted, strict=True)):
            return "its frozen graph answers differently"
    for node in (*graph.node, *(node for body in graph.library.function for node in body.node_def)):
        node.device = ""
    path.write_bytes(graph.SerializeToString())
    return None


def _near(first: np.ndarray, second: np.ndarray) -> bool:
    first, second = _known(first), _known(second)
    if first.dtype.kind != "f":
        return bool(np.array_equal(first, second))
    return np.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def _known(array: np.ndarray) -> np.ndarray:
    """Half types that numpy does not know are of kind V."""
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def serve(request: Mapping[str, Any]) -> None:
    """Freeze what the request names and describe it, or say why not.

    Args:
        request: `path`, `scratch`, and the arguments of `freeze`.
    """
    scratch = Path(request["scratch"])
    asked = {name: request[name] for name in ("legacy", "signature", "largest")}
    try:
        described = freeze(Path(request["path"]), scratch, **asked)
    except KdError as refused:
        described = {"error": refused.message, "hint": refused.hint, "usage": isinstance(refused, UsageError)}
    # Whatever TensorFlow raises means that this file does not load; the parent says so.
    except Exception as error:
        # The folder is a private copy that nobody has named.
        reason = first_line(error).replace(f"{request['path']}/", "")
        described = {"error": f"it does not load: {reason:.300}", "hint": None, "usage": False}
    (scratch / DESCRIPTION).write_text(json.dumps(described), "utf-8")


def _alone(request: Mapping[str, Any]) -> None:
    """Serve in a process that was made for nothing else."""
    # What libraries write about themselves belongs to nobody.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    limit(memory=request["memory"], cpu_seconds=request["cpu_seconds"], file_bytes=request["file_bytes"])
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(request["threads"])
    serve(request)


if __name__ == "__main__":
    _alone(json.loads(sys.stdin.readline()))
