"""An ONNX file, for onnxruntime and for what else reads ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from kdcli.exports.quietly import silence_converter
from kdcli.spec import ExportFormat


class Onnx(ExportFormat):
    """The inference graph with the input `input`, weights in float32."""

    extra: ClassVar[str | None] = "onnx"
    runtime: ClassVar[str] = "onnxruntime"
    suffix: ClassVar[str] = ".onnx"

    kind: Literal["onnx"] = "onnx"

    def write(self, serving: Any, path: Path) -> None:
        """Convert the inference function."""
        with silence_converter(f"{path.name}: the model cannot be converted to ONNX"):
            # What a layer holds as a tensor becomes an input of its own unless it is a constant.
            model = serving.constant.model
            model.export(path, format="onnx", input_signature=[serving.signature], verbose=False)

    def open(self, path: Path, *, threads: int | None = None) -> Any:
        """Open it with onnxruntime, in a process of its own."""
        from kdcli.models.runtimes.runner import FileRunner

        return FileRunner(path, form="onnx", name=path.name, threads=threads)
