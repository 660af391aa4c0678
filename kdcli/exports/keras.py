"""A `.keras` file that plain Keras opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from kdcli.errors import ModelError
from kdcli.exports.quietly import silence_converter
from kdcli.spec import ExportFormat


class Keras(ExportFormat):
    """The model behind its preprocessing, made of stock layers, in float32 and in inference."""

    suffix: ClassVar[str] = ".keras"

    kind: Literal["keras"] = "keras"

    def write(self, serving: Any, path: Path) -> None:
        """Save the model.

        Raises:
            ModelError: the network is a graph.
        """
        if serving.model is None:
            raise ModelError(
                f"{path.name}: only a model that Keras 3 opens can be written as .keras",
                hint="--format saved-model",
            )
        with silence_converter(f"{path.name}: Keras does not save the model"):
            serving.model.save(path)

    def open(self, path: Path, *, threads: int | None = None) -> Any:
        """Open it as anybody would."""
        from kdcli.models.runtimes.tensorflow import open_keras

        return open_keras(path)
