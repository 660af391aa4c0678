"""A TensorFlow SavedModel, for TensorFlow Serving and for other vendors' converters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from kdcli.exports.converter import silence_converter
from kdcli.spec import ExportFormat

if TYPE_CHECKING:
    from kdcli.models.keras.served_model import ServedModel
    from kdcli.models.runtimes.tensorflow import TensorFlowRunner


class SavedModel(ExportFormat):
    """A folder with the signature `serving_default`, from `input` to `output_0`."""

    suffix: ClassVar[str] = "_saved_model"

    kind: Literal["saved-model"] = "saved-model"

    def write(self, serving: ServedModel, path: Path) -> None:
        """Export the inference function.

        Raises:
            ModelError: TensorFlow cannot export the model.
        """
        with silence_converter(f"{path.name}: TensorFlow cannot export the model"):
            model = serving.constant.model if serving.model is None else serving.model
            model.export(path, format="tf_saved_model", input_signature=[serving.signature], verbose=False)

    def open(self, path: Path, *, threads: int | None = None) -> TensorFlowRunner:
        """Open the folder by its signature."""
        from kdcli.models.runtimes.tensorflow import open_saved_model

        return open_saved_model(path)
