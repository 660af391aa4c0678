"""TensorFlow and Keras as modules that load at first use, quietly.

Specs and formulas can then share a file: reading a recipe never pays for importing TensorFlow.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Filled when TensorFlow and Keras have been made quiet, also where somebody else imported them before.
_loaded: list[bool] = []


class _LazyModule:
    """Stands for a module until one of its names is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__version__":
            raise AttributeError(attribute)
        return getattr(_load(self._name), attribute)

    def __repr__(self) -> str:
        return f"<lazy module {self._name!r}>"


def _load(name: str) -> Any:
    if name in sys.modules and _loaded:
        return sys.modules[name]
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silence_descriptor(2):
        tensorflow = importlib.import_module("tensorflow")
        importlib.import_module("keras")
        # Looking for a GPU makes native code complain when there is none.
        tensorflow.config.list_physical_devices()
    # Its warnings (each new model is a new function to it) are not for the people who use this package.
    tensorflow.get_logger().setLevel("ERROR")
    _loaded.append(True)
    return importlib.import_module(name)


@contextmanager
def silence_descriptor(descriptor: int) -> Iterator[None]:
    """Keep native code from writing to a file descriptor (1 or 2); replay what it wrote on failure."""
    stream = sys.stderr if descriptor == 2 else sys.stdout
    stream.flush()
    kept = os.dup(descriptor)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), descriptor)
        try:
            yield
        except BaseException:
            stream.flush()
            os.dup2(kept, descriptor)
            caught.seek(0)
            os.write(descriptor, caught.read())
            raise
        finally:
            stream.flush()
            os.dup2(kept, descriptor)
            os.close(kept)


tf: Any = _LazyModule("tensorflow")
keras: Any = _LazyModule("keras")
ops: Any = _LazyModule("keras.ops")
