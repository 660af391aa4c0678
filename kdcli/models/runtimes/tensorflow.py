"""Exported `.keras` files and SavedModels in TensorFlow, run as users without kd run them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.lazy import tf
from kdcli.models.batching import predict_in_batches, time_in_batches
from kdcli.models.files.load import load_saved_model, load_written_keras
from kdcli.tensors import Tensor


class TensorFlowRunner:
    """A file opened by TensorFlow.

    Args:
        function: from a tensor (batch, ...) to the output.
        dtype: input type.
        batch: the only batch size, or None for any.
        owner: object that must exist as long as the function is called.
    """

    runtime = "tensorflow"

    def __init__(self, function: Callable[[Tensor], Tensor], *, dtype: str, batch: int | None, owner: Any) -> None:
        self.threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
        self.batch = batch
        self._function = function
        self._dtype = dtype
        self._owner = owner

    def predict(self, batch: np.ndarray) -> np.ndarray:
        """Outputs (n, ...) in float32 for examples (n, ...)."""
        return np.asarray(predict_in_batches(self._predict_batch, batch, size=self.batch), np.float32)

    def time_block(self, requests: list[np.ndarray]) -> np.ndarray:
        """Nanoseconds (int64) of each request, including reading its output back."""
        return time_in_batches(self._predict_batch, requests, size=self.batch)

    def close(self) -> None:
        """Do nothing: no file or process is open."""

    def _predict_batch(self, batch: np.ndarray) -> np.ndarray:
        return self._function(tf.convert_to_tensor(batch, self._dtype)).numpy()


def open_keras(path: Path) -> TensorFlowRunner:
    """Open a `.keras` file; it is compiled once for each batch size.

    Raises:
        ModelError: the file does not load.
    """
    model = load_written_keras(path)
    spec = model.inputs[0]
    function = tf.function(lambda batch: model(batch, training=False), autograph=False)
    return TensorFlowRunner(function, dtype=str(spec.dtype), batch=spec.shape[0], owner=model)


def open_saved_model(folder: Path) -> TensorFlowRunner:
    """Open the signature `serving_default` of a SavedModel."""
    loaded = load_saved_model(folder)
    signature = loaded.signatures["serving_default"]
    ((name, spec),) = signature.structured_input_signature[1].items()

    def predict(batch: Tensor) -> Tensor:
        return next(iter(signature(**{name: batch}).values()))

    return TensorFlowRunner(predict, dtype=spec.dtype.name, batch=spec.shape[0], owner=loaded)
