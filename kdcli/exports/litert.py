"""A `.tflite` file for LiteRT, which runs on phones, boards and in browsers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdcli.errors import ModelError
from kdcli.exports.converter import silence_converter
from kdcli.exports.litert_quantizer import BITS, FloatFile
from kdcli.exports.mixed import count_float_operations, quantize_mixed
from kdcli.lazy import keras, tf
from kdcli.spec import ExportFormat
from kdcli.tensors import KerasModel

if TYPE_CHECKING:
    from kdcli.models.keras.served_model import ServedModel
    from kdcli.models.runtimes.child_process import FileRunner

QuantizeMode = Literal["none", "float16", "dynamic", "int8", "int8x16", "int4", "int4-weights", "mixed"]
IoType = Literal["float32", "uint8", "int8"]


class Litert(ExportFormat):
    """The inference graph as a flatbuffer.

    Args:
        quantize: `none` (float32), `float16` (weights), `dynamic` (8-bit weights, float activations), or `int8`
            (8-bit weights and activations, calibrated on training examples; Jacob et al. 2018, arXiv:1712.05877).
            Through `litert-quantizer`: `int8x16` (8-bit weights, 16-bit activations), `int4` (4-bit weights where
            LiteRT has them, 8-bit activations), `int4-weights` (4-bit weights, float activations), and `mixed` (8
            bits, and float32 for as few operations as the gates allow on validation examples).
        io: type of input and output. None: image bytes in, or floats for other data, and floats out. `float32`:
            floats in and out. `uint8` and `int8`: integers in and out, for `int8` files only.
    """

    extra: ClassVar[str | None] = "litert"
    runtime: ClassVar[str] = "litert"
    suffix: ClassVar[str] = ".tflite"

    kind: Literal["litert"] = "litert"
    quantize: QuantizeMode = "none"
    io: IoType | None = None

    @property
    def variant(self) -> str | None:
        """The quantization."""
        return self.quantize

    @property
    def from_data(self) -> bool:
        """Whether the activations are calibrated on examples."""
        return self.quantize in ("int8", "int8x16", "int4", "mixed")

    @property
    def searches(self) -> bool:
        """Whether the number of float operations is searched for."""
        return self.quantize == "mixed"

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras that it needs."""
        return ("litert", "quantize") if self.quantize in BITS else ("litert",)

    @property
    def is_int8(self) -> bool:
        """Whether weights and activations have 8 bits."""
        return self.quantize == "int8"

    @property
    def takes_floats(self) -> bool:
        """Whether the model to convert takes floats."""
        return self.is_int8 or self.quantize in BITS or self.io == "float32"

    def write(self, serving: ServedModel, path: Path) -> None:
        """Convert the model through a SavedModel of constants.

        Converting a concrete function of a Keras model gives wrong weights (TensorFlow 2.21); converting a
        SavedModel gives the right ones.

        Raises:
            ModelError: an operation that LiteRT does not support, or a loop in an `int8` file.
        """
        failure = f"{path.name}: the model cannot be converted"
        failure += "" if self.quantize == "none" else f" with --quantize {self.quantize}"
        hint = "--format keras supports every layer" if serving.model is not None else "--format saved-model"
        with silence_converter(failure, hint=hint):
            constant = serving.constant
        if self.from_data and constant.has_loops:
            # Calibrating a loop crashes the process.
            raise ModelError(f"{failure}: {_describe_loop(serving.model)}", hint="--quantize dynamic")
        if constant.has_loops and serving.batch is None:
            hint = "--batch 1: recurrent layers need a fixed batch size"
        with tempfile.TemporaryDirectory(prefix="kd-", dir=path.parent) as folder:
            with silence_converter(failure, hint=hint):
                signature = [serving.signature]
                constant.model.export(folder, format="tf_saved_model", input_signature=signature, verbose=False)
                content = self._make_converter(folder, serving).convert()
                if self.quantize in BITS:
                    content = self._quantize(content, serving, path)
        path.write_bytes(content)

    def _quantize(self, content: bytes, serving: ServedModel, path: Path) -> bytes:
        file, accepts = FloatFile(content, self.quantize, serving.representative), serving.accepts
        if not self.searches:
            return file.quantize()
        if accepts is None:
            raise ModelError("it needs validation examples")

        def accepts_content(quantized: bytes) -> bool:
            path.write_bytes(quantized)
            return accepts(path)

        return quantize_mixed(file, accepts_content)

    def describe(self, path: Path) -> str | None:
        """How many operations of a `mixed` file stay in float32."""
        if not self.searches:
            return None
        floats, total = count_float_operations(path)
        return f"{floats} of {total} operations stay in float32"

    def _make_converter(self, folder: str, serving: ServedModel) -> Any:
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if self.quantize == "none" or self.quantize in BITS:
            return converter
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if self.quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if self.quantize == "int8":
            if not serving.is_rounded:
                converter.representative_dataset = lambda: ([one] for one in serving.representative)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = getattr(
                tf, self.io or ("uint8" if serving.takes_bytes else "float32")
            )
            converter.inference_output_type = getattr(tf, self.io or "float32")
        return converter

    def open(self, path: Path, *, threads: int | None = None) -> FileRunner:
        """Open the file with LiteRT, in a process of its own."""
        from kdcli.models.runtimes.child_process import FileRunner

        return FileRunner(path, form="tflite", name=path.name, threads=threads)


def _describe_loop(model: KerasModel | None) -> str:
    """A clause that names the recurrent layer."""
    from kdcli.models.keras.taps import find_layers

    layers = find_layers(model) if model is not None else {}
    first = next((path for path, layer in layers.items() if isinstance(layer, keras.layers.RNN)), None)
    return f"the layer {first} is recurrent" if first else "it has a loop"
