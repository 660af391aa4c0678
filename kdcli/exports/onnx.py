"""An ONNX file, for onnxruntime and other ONNX runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from kdcli.exports.converter import silence_converter
from kdcli.spec import ExportFormat

if TYPE_CHECKING:
    from kdcli.models.keras.served_model import ServedModel
    from kdcli.models.runtimes.child_process import FileRunner


class Onnx(ExportFormat):
    """The inference graph with the input `input` and weights in float32."""

    extra: ClassVar[str | None] = "onnx"
    runtime: ClassVar[str] = "onnxruntime"
    suffix: ClassVar[str] = ".onnx"

    kind: Literal["onnx"] = "onnx"

    def write(self, serving: ServedModel, path: Path) -> None:
        """Convert the inference function.

        Raises:
            ModelError: the model cannot be converted.
        """
        with silence_converter(f"{path.name}: the model cannot be converted to ONNX"):
            # Tensors that a layer holds would become inputs if they were not constants.
            model = serving.constant.model
            model.export(path, format="onnx", input_signature=[serving.signature], verbose=False)

    def open(self, path: Path, *, threads: int | None = None) -> FileRunner:
        """Open the file with onnxruntime, in a process of its own."""
        from kdcli.models.runtimes.child_process import FileRunner

        return FileRunner(path, form="onnx", name=path.name, threads=threads)
