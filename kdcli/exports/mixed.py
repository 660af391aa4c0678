"""Mixed precision: 8 bits, and float32 for as few operations as a check allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.errors import ModelError
from kdcli.exports.litert_quantizer import FloatFile

if TYPE_CHECKING:
    import numpy as np

# Examples that rank the operations: each operation takes a file and a pass over them.
_RANKING_EXAMPLES = 64


def quantize_mixed(file: FloatFile, accepts: Callable[[bytes], bool]) -> bytes:
    """Leave the fewest of the most sensitive operations in float32 with which the file is accepted.

    The sensitivity of an operation is the error of the outputs if only that operation has 8 bits. The number is
    found by bisection, as if each further float operation made the file better.

    Args:
        file: in float32, with its examples.
        accepts: whether a quantized file is good enough.

    Raises:
        ModelError: not even the file in float32 is accepted.
    """
    # Ranking takes a file for each operation, so 8 bits everywhere are tried first.
    if accepts(content := file.quantize()):
        return content
    errors = measure_sensitivities(file)
    order = sorted(file.operations, key=lambda one: -errors[one])
    found, low, high = None, 1, len(order)
    while low < high or found is None:
        count = (low + high) // 2
        content = file.quantize(floats=order[:count])
        if accepts(content):
            found, high = content, count
        elif count == len(order):
            raise ModelError("no file meets the gates on validation examples, not even one in float32")
        else:
            low = count + 1
    return found


def measure_sensitivities(file: FloatFile) -> dict[str, float]:
    """The relative squared error of the outputs on at most 64 examples, by the only operation that has 8 bits."""
    import numpy as np

    # Evenly spaced, because the examples may be sorted by label.
    positions = np.linspace(0, len(file.examples) - 1, min(_RANKING_EXAMPLES, len(file.examples))).astype(int)
    examples = np.concatenate([file.examples[position] for position in positions])
    expected = _run(file.content, examples)
    spread = float(np.square(expected - expected.mean(0)).sum()) or 1.0
    errors = {}
    for name in file.operations:
        others = [one for one in file.operations if one != name]
        errors[name] = float(np.square(_run(file.quantize(floats=others), examples) - expected).sum()) / spread
    return errors


def count_float_operations(path: Path) -> tuple[int, int]:
    """The number of operations of a file that compute in float32, and that of all; conversions do not count."""
    from litert_quantizer import qtyping
    from litert_quantizer.utils import tfl_flatbuffer_utils

    model = tfl_flatbuffer_utils.read_model(path.read_bytes())
    graph, kinds = model.subgraphs[0], qtyping.BuiltinOperator
    conversions = (kinds.QUANTIZE, kinds.DEQUANTIZE)
    computing = [
        one for one in graph.operators if model.operatorCodes[one.opcodeIndex].builtinCode not in conversions
    ]
    floats = [one for one in computing if graph.tensors[one.outputs[0]].type == qtyping.TensorType.FLOAT32]
    return len(floats), len(computing)


def _run(content: bytes, examples: np.ndarray) -> np.ndarray:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content, num_threads=1)
    place, output = runner.get_input_details()[0]["index"], runner.get_output_details()[0]["index"]
    runner.allocate_tensors()
    size = len(runner.get_tensor(place))
    results = []
    for start in range(0, len(examples), size):
        runner.set_tensor(place, examples[start : start + size])
        runner.invoke()
        results.append(runner.get_tensor(output))
    return np.concatenate(results)
