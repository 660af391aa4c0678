"""Quantizations that LiteRT's converter lacks, by `litert-quantizer`, which takes a finished float32 file."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Sequence
from contextlib import redirect_stderr
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Bits of weights and activations; None computes in float32 with weights that are stored in few bits.
BITS: dict[str, tuple[int, int | None]] = {
    "int8x16": (8, 16),
    "int4": (4, 8),
    "int4-weights": (4, None),
    "mixed": (8, 8),
}
# Operations that have 4-bit weights; those of others, such as depthwise convolutions, have 8.
_FOUR_BIT_OPERATIONS = ("CONV_2D", "FULLY_CONNECTED")


class FloatFile:
    """A `.tflite` file in float32, to be quantized.

    Ranges of activations are the smallest and largest values on the examples. The library's own default, a moving
    average, clips values that the converter's int8 files represent.

    Args:
        content: the file; it has one input.
        way: a key of `BITS`.
        examples: (1, *shape) inputs that give the ranges.
    """

    def __init__(self, content: bytes, way: str, examples: Sequence[np.ndarray]) -> None:
        self.content, self.way, self.examples = content, way, examples

    @cached_property
    def operations(self) -> list[str]:
        """The operations in their order, each by the names of its outputs."""
        from litert_quantizer.utils import tfl_flatbuffer_utils

        graph = tfl_flatbuffer_utils.read_model(self.content).subgraphs[0]
        return [tfl_flatbuffer_utils.get_op_scope(one, graph.tensors) for one in graph.operators]

    def quantize(self, *, floats: Collection[str] = ()) -> bytes:
        """The quantized file; its inputs and outputs stay floats.

        Args:
            floats: operations that stay in float32.
        """
        from litert_quantizer import quantizer

        recipe = _make_recipe(self.way, floats)
        maker = quantizer.Quantizer(bytearray(self.content), recipe.get_quantization_recipe())
        ranges = self._ranges if maker.need_calibration else None
        return bytes(maker.quantize(ranges, enable_progress_report=False).quantized_model)

    @cached_property
    def _ranges(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter
        from litert_quantizer import calibrator
        from litert_quantizer.utils import qsv_utils

        (key, signature), *_ = Interpreter(model_content=self.content).get_signature_list().items()
        measured = calibrator.Calibrator(
            memoryview(self.content), num_threads=1, qsv_update_func=qsv_utils.min_max_update
        )
        # Its progress bar cannot be switched off.
        with redirect_stderr(io.StringIO()):
            inputs = [{signature["inputs"][0]: one} for one in self.examples]
            measured.calibrate({key: inputs}, _make_recipe(self.way))
        return measured.get_model_qsvs()


def _make_recipe(way: str, floats: Collection[str] = ()) -> Any:
    from litert_quantizer import algorithm_manager, qtyping, recipe_manager

    weights, activations = BITS[way]
    names, recipe = qtyping.TFLOperationName, recipe_manager.RecipeManager()

    def add(operation: Any, bits: int) -> None:
        if activations is None:
            recipe.add_weight_only_config(regex=".*", operation_name=operation, num_bits=bits)
        else:
            recipe.add_static_config(
                regex=".*", operation_name=operation, activation_num_bits=activations, weight_num_bits=bits
            )

    def leave(operation: Any, regex: str) -> None:
        recipe.add_quantization_config(
            regex=regex, operation_name=operation, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
        )

    add(names.ALL_SUPPORTED, 8)
    if weights == 4:
        for name in _FOUR_BIT_OPERATIONS:
            add(getattr(names, name), 4)
    for ends in (names.INPUT, names.OUTPUT):
        leave(ends, ".*")
    for one in floats:
        leave(names.ALL_SUPPORTED, f"^{re.escape(one)}$")
    return recipe
