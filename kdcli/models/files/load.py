"""The functions that load models, for files that were screened or that kd wrote itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from kdcli.lazy import keras, tf
from kdcli.tensors import KerasModel


def load_written_keras(path: Path) -> KerasModel:
    """Load a `.keras` file that this process wrote."""
    return load_keras(path, safe=True)


def load_saved_model(folder: Path) -> Any:
    """Load a SavedModel that kd wrote, or that was screened.

    Screened ones are loaded in a child process. kd's own process loads only what cannot be frozen: permitted
    lookup tables, or too many weights.

    Returns:
        The loaded object. Its `signatures` are functions that need the object to stay alive.
    """
    return tf.saved_model.load(folder)


def load_keras_2_file(path: Path) -> Any:
    """Load a `.h5` or `.keras` file with Keras 2, in a child process that never imports Keras 3."""
    import tf_keras

    return tf_keras.models.load_model(path, compile=False, safe_mode=True)


def load_keras_2_weights(model: KerasModel, path: Path) -> None:
    """Assign the weights of a screened `.h5` file of Keras 2 to a model with the same layers."""
    model.load_weights(path)


def load_keras(path: Path, *, safe: bool) -> KerasModel:
    """Load a Keras 3 file; `safe` refuses objects that could run code."""
    with warnings.catch_warnings():
        # Warnings are about how the model was written, which its user cannot change.
        warnings.simplefilter("ignore", UserWarning)
        return keras.saving.load_model(path, compile=False, safe_mode=safe)
