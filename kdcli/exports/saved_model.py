"""A TensorFlow SavedModel, for TensorFlow Serving and for converters of other makers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from kdcli.exports.quietly import silence_converter
from kdcli.spec import ExportFormat


class SavedModel(ExportFormat):
    """A folder with the signature `serving_default`: `input` goes in, `output_0` comes out."""

    suffix: ClassVar[str] = "_saved_model"

    kind: Literal["saved-model"] = "saved-model"

    def write(self, serving: Any, path: Path) -> None:
        """Export the inference function."""
        with silence_converter(f"{path.name}: TensorFlow does not export the model"):
            signature = [serving.signature]
            model = serving.constant.model if serving.model is None else serving.model
            model.export(path, format="tf_saved_model", input_signature=signature, verbose=False)

    def open(self, path: Path, *, threads: int | None = None) -> Any:
        """Open it by its signature."""
        from kdcli.models.runtimes.tensorflow import open_saved_model

        return open_saved_model(path)
