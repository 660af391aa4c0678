"""An exported `.keras` file or SavedModel in TensorFlow, as somebody without kd runs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.lazy import tf
from kdcli.models.batching import predict_in_batches, time_in_batches
from kdcli.models.files.load import load_saved_model, load_written_keras


class TensorFlowRunner:
    """A file that TensorFlow opened.

    Args:
        function: from a tensor (batch, ...) to the answer.
        dtype: what it takes.
        batch: the only batch size, or None for any.
        owner: kept alive as long as the function is asked.
    """

    runtime = "tensorflow"

    def __init__(self, function: Callable[[Any], Any], *, dtype: str, batch: int | None, owner: Any) -> None:
        self.threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
        self.batch = batch
        self._function = function
        self._dtype = dtype
        self._owner = owner

    def predict(self, batch: np.ndarray) -> np.ndarray:
        """Answers (n, ...) in float32 to examples (n, ...)."""
        return np.asarray(predict_in_batches(self._ask, batch, size=self.batch), np.float32)

    def time_block(self, requests: list[np.ndarray]) -> np.ndarray:
        """Nanoseconds (int64) of each request, its output read back."""
        return time_in_batches(self._ask, requests, size=self.batch)

    def close(self) -> None:
        """Nothing is held open."""

    def _ask(self, batch: np.ndarray) -> np.ndarray:
        return self._function(tf.convert_to_tensor(batch, self._dtype)).numpy()


def open_keras(path: Path) -> TensorFlowRunner:
    """A `.keras` file, compiled for each batch size that it is asked.

    Raises:
        ModelError: it does not load.
    """
    model = load_written_keras(path)
    taken = model.inputs[0]
    function = tf.function(lambda batch: model(batch, training=False), autograph=False)
    return TensorFlowRunner(function, dtype=str(taken.dtype), batch=taken.shape[0], owner=model)


def open_saved_model(folder: Path) -> TensorFlowRunner:
    """A SavedModel by its signature `serving_default`."""
    loaded = load_saved_model(folder)
    signature = loaded.signatures["serving_default"]
    ((name, taken),) = signature.structured_input_signature[1].items()

    def answer(batch: Any) -> Any:
        return next(iter(signature(**{name: batch}).values()))

    return TensorFlowRunner(answer, dtype=taken.dtype.name, batch=taken.shape[0], owner=loaded)
