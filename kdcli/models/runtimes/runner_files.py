"""`.tflite` and `.onnx` files in their own runtimes, as the child process opens them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# NumPy's names for the types of onnxruntime.
_ONNX_TYPES = {"float": "float32", "double": "float64"}


class LiteRTFile:
    """A `.tflite` file in LiteRT.

    Args:
        path: the file.
        threads: number of threads its operations use.

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
        names = self._find_names()
        self.inputs = [_describe_litert_tensor(tensor, names) for tensor in self._inputs]
        self.outputs = [_describe_litert_tensor(tensor, names) for tensor in self._outputs]
        # A batch size that is fixed in the graph stays: resized graphs may give wrong outputs.
        self.batches = [_find_fixed_batch(tensor) for tensor in self._inputs]

    def _find_names(self) -> dict[int, str]:
        """Tensor names by index: those of the file's signature, else the tensors' own names."""
        details = [*self._inputs, *self._outputs]
        own = {tensor["index"]: _simplify_name(tensor["name"]) for tensor in details}
        for key in self._interpreter.get_signature_list():
            runner = self._interpreter.get_signature_runner(key)
            tensors = {**runner.get_input_details(), **runner.get_output_details()}
            found = {tensor["index"]: name for name, tensor in tensors.items()}
            # Other signatures describe other parts of the file.
            if set(found) == set(own):
                return found
        return own if len(set(own.values())) == len(own) else {t["index"]: t["name"] for t in details}

    def fit(self, batch: Sequence[np.ndarray]) -> None:
        """Allocate memory for a batch, and reset the state of recurrent layers."""
        for tensor, array in zip(self._inputs, batch, strict=True):
            if tuple(tensor["shape"]) != array.shape:
                self._interpreter.resize_tensor_input(tensor["index"], array.shape)
                tensor["shape"] = array.shape
        # Does nothing if no shape has changed.
        self._interpreter.allocate_tensors()
        self._interpreter.reset_all_variables()

    def run(self, batch: Sequence[np.ndarray], output: int) -> np.ndarray:
        """One output for a batch."""
        for tensor, array in zip(self._inputs, batch, strict=True):
            self._interpreter.set_tensor(tensor["index"], array)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._outputs[output]["index"])


class OnnxFile:
    """An `.onnx` file in onnxruntime; the arguments are those of `LiteRTFile`."""

    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # 3 shows errors only: onnxruntime warns of every constant that it folds.
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs = [_describe_onnx_tensor(one) for one in inputs]
        self.outputs = [_describe_onnx_tensor(one) for one in outputs]
        self._names = [[one.name for one in group] for group in (inputs, outputs)]
        firsts = [(one.shape or [0])[0] for one in inputs]
        self.batches = [first if isinstance(first, int) else None for first in firsts]

    def fit(self, batch: Sequence[np.ndarray]) -> None:
        """Do nothing: onnxruntime allocates while it runs."""

    def run(self, batch: Sequence[np.ndarray], output: int) -> np.ndarray:
        """One output for a batch."""
        names, outputs = self._names
        return self._session.run([outputs[output]], dict(zip(names, batch, strict=True)))[0]


class MicroFile:
    """A `.tflite` file in TensorFlow Lite Micro, which takes one example at a time.

    Args:
        path: the file.
        threads: ignored; the interpreter has one.
        arena: bytes of the tensor arena.

    Raises:
        RuntimeError: the runtime lacks an operation; if the arena is too small, it crashes.
    """

    def __init__(self, path: str, threads: int, *, arena: int) -> None:
        from tflite_micro.python.tflite_micro import runtime

        del threads
        with open(path, "rb") as file:
            content = file.read()
        self._interpreter = interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
        self.inputs = [_describe_micro_tensor(interpreter.get_input_details(0), "input")]
        self.outputs = [_describe_micro_tensor(interpreter.get_output_details(0), "output")]
        self.batches: list[int | None] = [1]

    def fit(self, batch: Sequence[np.ndarray]) -> None:
        """Reset the state of recurrent layers."""
        self._interpreter.reset()

    def run(self, batch: Sequence[np.ndarray], output: int) -> np.ndarray:
        """The output for a batch of one."""
        del output
        self._interpreter.set_input(np.ascontiguousarray(batch[0]), 0)
        self._interpreter.invoke()
        return np.array(self._interpreter.get_output(0))


FILE_OF_FORMAT = {"tflite": LiteRTFile, "onnx": OnnxFile, "micro": MicroFile}


def _find_fixed_batch(tensor: dict[str, Any]) -> int | None:
    signature = tensor["shape_signature"]
    if len(signature) and signature[0] == -1:
        return None
    return int(tensor["shape"][0]) if len(tensor["shape"]) else 0


def _simplify_name(name: str) -> str:
    """`image` from `serving_default_image:0`, which TensorFlow's converters write."""
    return re.sub(r":\d+$", "", name.removeprefix("serving_default_")) or name


def _describe_litert_tensor(tensor: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    shape = tensor["shape_signature"] if len(tensor["shape_signature"]) else tensor["shape"]
    parameters = tensor["quantization_parameters"]
    quantized = len(parameters["scales"]) == 1
    return {
        "name": names[tensor["index"]],
        "shape": [int(side) for side in shape[1:]],
        "dtype": np.dtype(tensor["dtype"]).name,
        "scale": float(parameters["scales"][0]) if quantized else None,
        "zero_point": int(parameters["zero_points"][0]) if quantized else 0,
    }


def _describe_micro_tensor(tensor: dict[str, Any], name: str) -> dict[str, Any]:
    parameters = tensor["quantization_parameters"]
    quantized = len(parameters["scales"]) == 1
    return {
        "name": name,
        "shape": [int(side) for side in tensor["shape"][1:]],
        "dtype": np.dtype(tensor["dtype"]).name,
        "scale": float(parameters["scales"][0]) if quantized else None,
        "zero_point": int(parameters["zero_points"][0]) if quantized else 0,
    }


def _describe_onnx_tensor(tensor: Any) -> dict[str, Any]:
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    shape = [side if isinstance(side, int) else -1 for side in (tensor.shape or [])[1:]]
    dtype = _ONNX_TYPES.get(kind, kind)
    return {"name": tensor.name, "shape": shape, "dtype": dtype, "scale": None, "zero_point": 0}
