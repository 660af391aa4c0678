"""Quantizations that LiteRT's converter lacks, by `litert-quantizer`, which takes a finished float32 file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Bits of weights and activations; None computes in float32 with weights that are stored in few bits.
BITS: dict[str, tuple[int, int | None]] = {"int8x16": (8, 16), "int4": (4, 8), "int4-weights": (4, None)}
# Operations that have 4-bit weights; those of others, such as depthwise convolutions, have 8.
_FOUR_BIT_OPERATIONS = ("CONV_2D", "FULLY_CONNECTED")


def quantize_file(content: bytes, way: str, examples: Sequence[np.ndarray]) -> bytes:
    """Quantize a file; its inputs and outputs stay floats.

    Ranges of activations are the smallest and largest values on the examples. The library's own default, a moving
    average, clips values that the converter's int8 files represent.

    Args:
        content: a `.tflite` file in float32 with one input.
        way: a key of `BITS`.
        examples: (1, *shape) inputs that give the ranges.
    """
    from ai_edge_litert.interpreter import Interpreter
    from litert_quantizer import calibrator, quantizer
    from litert_quantizer.utils import qsv_utils

    recipe = _make_recipe(way)
    maker, ranges = quantizer.Quantizer(bytearray(content), recipe.get_quantization_recipe()), None
    if maker.need_calibration:
        signatures = Interpreter(model_content=content).get_signature_list()
        (key, signature), *_ = signatures.items()
        measured = calibrator.Calibrator(
            memoryview(content), num_threads=1, qsv_update_func=qsv_utils.min_max_update
        )
        # Its progress bar cannot be switched off.
        with redirect_stderr(io.StringIO()):
            measured.calibrate({key: [{signature["inputs"][0]: one} for one in examples]}, recipe)
        ranges = measured.get_model_qsvs()
    return bytes(maker.quantize(ranges, enable_progress_report=False).quantized_model)


def _make_recipe(way: str) -> Any:
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

    add(names.ALL_SUPPORTED, 8)
    if weights == 4:
        for name in _FOUR_BIT_OPERATIONS:
            add(getattr(names, name), 4)
    for ends in (names.INPUT, names.OUTPUT):
        recipe.add_quantization_config(
            regex=".*", operation_name=ends, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
        )
    return recipe
