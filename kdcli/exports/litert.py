"""A `.tflite` file for LiteRT: phones, boards, browsers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

from kdcli.errors import ModelError
from kdcli.exports.quietly import silence_converter
from kdcli.lazy import keras, tf
from kdcli.spec import ExportFormat

QuantizeMode = Literal["none", "float16", "dynamic", "int8"]
IoType = Literal["float32", "uint8", "int8"]


class Litert(ExportFormat):
    """The inference graph as a flatbuffer.

    Args:
        quantize: `none` (float32), `float16` (weights), `dynamic` (weights in 8 bits, sums in float), `int8`
            (weights and activations in 8 bits, by what training examples give; Jacob et al. 2018,
            arXiv:1712.05877).
        io: what goes in and comes out. None: the raw bytes of images, or else floats, go in, and floats come out.
            `float32`: floats at both ends. `uint8` and `int8`: integers at both ends of an `int8` file.
    """

    extra: ClassVar[str | None] = "litert"
    runtime: ClassVar[str] = "litert"
    suffix: ClassVar[str] = ".tflite"

    kind: Literal["litert"] = "litert"
    quantize: QuantizeMode = "none"
    io: IoType | None = None

    @property
    def variant(self) -> str | None:
        """How it is quantised."""
        return self.quantize

    @property
    def from_data(self) -> bool:
        """Only 8-bit activations need to be seen before."""
        return self.quantize == "int8"

    @property
    def takes_floats(self) -> bool:
        """The converter makes an `int8` file from floats, and then lets integers in where they are wanted."""
        return self.quantize == "int8" or self.io == "float32"

    def write(self, serving: Any, path: Path) -> None:
        """Convert by way of a SavedModel of constants.

        A concrete function of a Keras model is converted with wrong weights (TensorFlow 2.21); a SavedModel is
        converted rightly.

        Raises:
            ModelError: an operation that LiteRT does not have, or a loop where none can be.
        """
        what = f"{path.name}: the model cannot be converted"
        what += "" if self.quantize == "none" else f" with --quantize {self.quantize}"
        hint = "--format keras keeps every layer as it is" if serving.model is not None else "--format saved-model"
        with silence_converter(what, hint=hint):
            constant = serving.constant
        if self.quantize == "int8" and constant.has_loops:
            # The converter's calibration would end this process.
            raise ModelError(f"{what}: {_looping(serving.model)}", hint="--quantize dynamic")
        if constant.has_loops and serving.batch is None:
            hint = "--batch 1: recurrent layers need a fixed batch size"
        with tempfile.TemporaryDirectory(prefix="kd-", dir=path.parent) as folder:
            with silence_converter(what, hint=hint):
                signature = [serving.signature]
                constant.model.export(folder, format="tf_saved_model", input_signature=signature, verbose=False)
                content = self._converter(folder, serving).convert()
        path.write_bytes(content)

    def _converter(self, folder: str, serving: Any) -> Any:
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if self.quantize == "none":
            return converter
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if self.quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if self.quantize == "int8":
            converter.representative_dataset = lambda: ([one] for one in serving.representative)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = getattr(
                tf, self.io or ("uint8" if serving.takes_bytes else "float32")
            )
            converter.inference_output_type = getattr(tf, self.io or "float32")
        return converter

    def open(self, path: Path, *, threads: int | None = None) -> Any:
        """Open it in a process of its own."""
        from kdcli.models.runtimes.runner import FileRunner

        return FileRunner(path, form="tflite", name=path.name, threads=threads)


def _looping(model: Any) -> str:
    """Which layer is recurrent, in words."""
    from kdcli.models.keras.taps import find_layers

    layers = find_layers(model) if model is not None else {}
    first = next((path for path, layer in layers.items() if isinstance(layer, keras.layers.RNN)), None)
    return f"the layer {first} is recurrent" if first else "it has a loop"
