"""The functions that load models: called here only, on files that were screened or that kd wrote itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from kdcli.lazy import keras, tf


def load_written_keras(path: Path) -> Any:
    """The `keras.Model` in a `.keras` file that this process wrote itself."""
    return load_keras(path, safe=True)


def load_saved_model(folder: Path) -> Any:
    """Load a SavedModel: one that kd wrote itself, or one that was screened, in a process that may be lost.

    In kd's own process only what cannot be frozen is loaded: lookup tables that were allowed, or too many weights.

    Returns:
        The loaded object, whose `signatures` are functions; they live as long as it does.
    """
    return tf.saved_model.load(folder)


def load_keras_2_file(path: Path) -> Any:
    """Load a `.h5` or `.keras` file with Keras 2: in a process of its own, where Keras 3 is never imported."""
    import tf_keras

    return tf_keras.models.load_model(path, compile=False, safe_mode=True)


def load_keras(path: Path, *, safe: bool) -> Any:
    """Load a file of Keras 3; `safe` refuses what could run code."""
    with warnings.catch_warnings():
        # About how somebody wrote a model once: nothing that who opens it could change.
        warnings.simplefilter("ignore", UserWarning)
        return keras.saving.load_model(path, compile=False, safe_mode=safe)
