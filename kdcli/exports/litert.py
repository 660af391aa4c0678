"""A `.tflite` file for LiteRT: phones, boards, browsers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

from kdcli.errors import ModelError
from kdcli.exports.quietly import quietly
from kdcli.lazy import keras, tf
from kdcli.spec import ExportFormat

Quantize = Literal["none", "float16", "dynamic", "int8"]
Io = Literal["float32", "uint8", "int8"]


class Litert(ExportFormat):
    """The inference graph as a flatbuffer.

    Args:
        quantize: `none` (float32), `float16` (weights), `dynamic` (weights in 8 bits, sums in float), `int8`
            (weights and activations in 8 bits, by what training examples give; Jacob et al. 2018,
            arXiv:1712.05877).
        io: what goes into and comes out of an `int8` file; with `uint8` the raw bytes of a picture go in as
            they are.
    """

    extra: ClassVar[str | None] = "litert"
    runtime: ClassVar[str] = "litert"
    suffix: ClassVar[str] = ".tflite"

    kind: Literal["litert"] = "litert"
    quantize: Quantize = "none"
    io: Io = "float32"

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
        """The converter puts the quantisation in front of floats, and takes it away for `io`."""
        return self.quantize == "int8"

    def write(self, serving: Any, path: Path) -> None:
        """Convert by way of a SavedModel.

        A concrete function of a Keras model is converted with wrong weights (TensorFlow 2.21); the SavedModel
        that Keras writes is converted rightly.

        Raises:
            ModelError: an operation that LiteRT does not have, or a recurrent layer where none can be.
        """
        what = f"{path.name}: the model cannot be converted"
        what += "" if self.quantize == "none" else f" with --quantize {self.quantize}"
        hint = "--format keras keeps every layer as it is"
        recurrent = _recurrent(serving.model)
        if recurrent and self.quantize == "int8":
            # The converter's calibration would end this process.
            raise ModelError(f"{what}: the layer {recurrent} is recurrent", hint="--quantize dynamic")
        if recurrent and serving.batch is None:
            hint = "--batch 1: recurrent layers need a fixed batch size"
        with tempfile.TemporaryDirectory(prefix="kd-", dir=path.parent) as folder:
            with quietly(what, hint=hint):
                signature = [serving.signature]
                serving.model.export(folder, format="tf_saved_model", input_signature=signature, verbose=False)
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
            converter.inference_input_type = converter.inference_output_type = getattr(tf, self.io)
        return converter

    def open(self, path: Path, *, threads: int | None = None) -> Any:
        """Open it in a process of its own."""
        from kdcli.models.file_runner import FileRunner

        return FileRunner(path, form="tflite", threads=threads)


def _recurrent(model: Any) -> str | None:
    """The path of the first recurrent layer; None where there is none."""
    from kdcli.models.tapping import layers_by_path

    layers = layers_by_path(model)
    return next((path for path, layer in layers.items() if isinstance(layer, keras.layers.RNN)), None)
