"""A `.tflite` or `.onnx` file in its own runtime, as the child process opens it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# onnxruntime's names of the types that NumPy has.
_ONNX_TYPES = {"float": "float32", "double": "float64"}


class LiteRTFile:
    """One `.tflite` file in LiteRT.

    Args:
        path: the file.
        threads: for its operations.

    Raises:
        ValueError: the interpreter refuses the file.
    """

    def __init__(self, path: str, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with open(path, "rb") as file:
            content = file.read()
        self._interpreter = interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        self._inputs, self._outputs = interpreter.get_input_details(), interpreter.get_output_details()
        names = self._names()
        self.inputs = [_of_litert(tensor, names) for tensor in self._inputs]
        self.outputs = [_of_litert(tensor, names) for tensor in self._outputs]
        # A batch size that is written into the graph is kept: what is resized nevertheless may answer wrongly.
        self.batches = [_fixed(tensor) for tensor in self._inputs]

    def _names(self) -> dict[int, str]:
        """What the file's signature calls its tensors; without one, their own names."""
        details = [*self._inputs, *self._outputs]
        own = {tensor["index"]: _plain(tensor["name"]) for tensor in details}
        for key in self._interpreter.get_signature_list():
            runner = self._interpreter.get_signature_runner(key)
            called = {**runner.get_input_details(), **runner.get_output_details()}
            found = {tensor["index"]: name for name, tensor in called.items()}
            # Other signatures are about other parts of the file.
            if set(found) == set(own):
                return found
        return own if len(set(own.values())) == len(own) else {t["index"]: t["name"] for t in details}

    def fit(self, batch: Sequence[np.ndarray]) -> None:
        """Make room for a batch, and forget what recurrent layers remember of the last one."""
        for tensor, array in zip(self._inputs, batch, strict=True):
            if tuple(tensor["shape"]) != array.shape:
                self._interpreter.resize_tensor_input(tensor["index"], array.shape)
                tensor["shape"] = array.shape
        # Nothing is done where nothing changed.
        self._interpreter.allocate_tensors()
        self._interpreter.reset_all_variables()

    def run(self, batch: Sequence[np.ndarray], output: int) -> np.ndarray:
        """What one output holds after the batch."""
        for tensor, array in zip(self._inputs, batch, strict=True):
            self._interpreter.set_tensor(tensor["index"], array)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._outputs[output]["index"])


class OnnxFile:
    """One `.onnx` file in onnxruntime; the arguments are those of `LiteFile`."""

    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # 3 is errors: it warns of every constant that it folds.
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs, self.outputs = [_of_onnx(one) for one in inputs], [_of_onnx(one) for one in outputs]
        self._names = [[one.name for one in group] for group in (inputs, outputs)]
        firsts = [(one.shape or [0])[0] for one in inputs]
        self.batches = [first if isinstance(first, int) else None for first in firsts]

    def fit(self, batch: Sequence[np.ndarray]) -> None:
        """Nothing has to be done before."""

    def run(self, batch: Sequence[np.ndarray], output: int) -> np.ndarray:
        """What one output holds after the batch."""
        names, outputs = self._names
        return self._session.run([outputs[output]], dict(zip(names, batch, strict=True)))[0]


def _fixed(tensor: dict[str, Any]) -> int | None:
    signature = tensor["shape_signature"]
    if len(signature) and signature[0] == -1:
        return None
    return int(tensor["shape"][0]) if len(tensor["shape"]) else 0


def _plain(name: str) -> str:
    """`image` from `serving_default_image:0`, as converters of TensorFlow write it."""
    return re.sub(r":\d+$", "", name.removeprefix("serving_default_")) or name


def _of_litert(tensor: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    shape = tensor["shape_signature"] if len(tensor["shape_signature"]) else tensor["shape"]
    parameters = tensor["quantization_parameters"]
    quantised = len(parameters["scales"]) == 1
    return {
        "name": names[tensor["index"]],
        "shape": [int(side) for side in shape[1:]],
        "dtype": np.dtype(tensor["dtype"]).name,
        "scale": float(parameters["scales"][0]) if quantised else None,
        "zero_point": int(parameters["zero_points"][0]) if quantised else 0,
    }


def _of_onnx(tensor: Any) -> dict[str, Any]:
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    shape = [side if isinstance(side, int) else -1 for side in (tensor.shape or [])[1:]]
    dtype = _ONNX_TYPES.get(kind, kind)
    return {"name": tensor.name, "shape": shape, "dtype": dtype, "scale": None, "zero_point": 0}


FILE_OF_FORMAT = {"tflite": LiteRTFile, "onnx": OnnxFile}
