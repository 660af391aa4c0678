"""TensorFlow and Keras as modules that load quietly at first use.

Settings and formulas can then share a file: reading a recipe never imports TensorFlow.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Holds True once TensorFlow and Keras were silenced, even if other code had imported them before.
_loaded: list[bool] = []


class _LazyModule:
    """A module that is imported when one of its attributes is first used."""

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
        # The search for GPUs makes native code print errors on a machine without one.
        tensorflow.config.list_physical_devices()
    # Its warnings, such as retracing for each new model, mean nothing to users of this package.
    tensorflow.get_logger().setLevel("ERROR")
    _loaded.append(True)
    return importlib.import_module(name)


@contextmanager
def silence_descriptor(descriptor: int) -> Iterator[None]:
    """Silence native code that writes to a file descriptor.

    If the block raises, the suppressed output is written after all.

    Args:
        descriptor: 1 (stdout) or 2 (stderr).
    """
    stream = sys.stderr if descriptor == 2 else sys.stdout
    stream.flush()
    saved = os.dup(descriptor)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), descriptor)
        try:
            yield
        except BaseException:
            stream.flush()
            os.dup2(saved, descriptor)
            caught.seek(0)
            os.write(descriptor, caught.read())
            raise
        finally:
            stream.flush()
            os.dup2(saved, descriptor)
            os.close(saved)


tf: Any = _LazyModule("tensorflow")
keras: Any = _LazyModule("keras")
ops: Any = _LazyModule("keras.ops")
