"""A `.keras` file that plain Keras opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from kdcli.errors import ModelError
from kdcli.exports.converter import silence_converter
from kdcli.spec import ExportFormat

if TYPE_CHECKING:
    from kdcli.models.keras.served_model import ServedModel
    from kdcli.models.runtimes.tensorflow import TensorFlowRunner


class Keras(ExportFormat):
    """The model with its preprocessing, made of standard layers, in float32 and in inference mode."""

    suffix: ClassVar[str] = ".keras"

    kind: Literal["keras"] = "keras"

    def write(self, serving: ServedModel, path: Path) -> None:
        """Save the model.

        Raises:
            ModelError: the network is a graph.
        """
        if serving.model is None:
            raise ModelError(
                f"{path.name}: only a model that Keras 3 opens can be written as .keras",
                hint="--format saved-model",
            )
        with silence_converter(f"{path.name}: Keras cannot save the model"):
            serving.model.save(path)

    def open(self, path: Path, *, threads: int | None = None) -> TensorFlowRunner:
        """Open the file with plain Keras."""
        from kdcli.models.runtimes.tensorflow import open_keras

        return open_keras(path)
