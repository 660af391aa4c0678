"""Layers that a user brings along: a Python file that registers them with Keras."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path

from kdcli.errors import UsageError
from kdcli.lazy import keras


def bring_code(files: Sequence[Path]) -> None:
    """Run files that register classes or functions with Keras, each once in a process.

    Raises:
        UsageError: a file fails, or registers nothing.
    """
    for file in files:
        known = dict(keras.saving.get_custom_objects())
        try:
            runpy.run_path(str(file), run_name=file.stem)
        # The user's own code may raise anything.
        except Exception as error:
            place = f"{type(error).__name__}: {error}"
            raise UsageError(f"--code {file}: {place}", hint=f"python {file} shows where") from error
        found = keras.saving.get_custom_objects()
        if not any(known.get(name) is not found[name] for name in found):
            raise UsageError(
                f"--code {file} registers nothing",
                hint="put @keras.saving.register_keras_serializable() above each class",
            )


def registered_names() -> frozenset[str]:
    """The names under which own classes and functions stand in a model's configuration."""
    return frozenset(keras.saving.get_custom_objects())
