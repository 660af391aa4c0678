"""An `.onnx` file in onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from kdcli.errors import ModelError
from kdcli.models.batches import in_batches, time_in_batches
from kdcli.models.extras import require_extra


class OnnxRunner:
    """Runs an `.onnx` file with one input and one output on the CPU.

    Args:
        path: the file.
        threads: for its operations; every core when left out.

    Raises:
        ModelError: onnxruntime refuses the file, or an extra is missing.
    """

    runtime = "onnxruntime"

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        require_extra("onnx", what=f"{path}: an .onnx file")
        import onnxruntime

        self.threads = threads or os.cpu_count() or 1
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # 3 is errors: it warns of every constant that it folds.
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        # onnxruntime's exceptions have no public base.
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{path}: onnxruntime does not open the file: {reason:.300}") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; one of each is needed")
        self._input = inputs[0].name
        fixed = inputs[0].shape[0]
        self.batch: int | None = fixed if isinstance(fixed, int) else None

    def answer(self, batch: np.ndarray) -> np.ndarray:
        """Answers (n, ...) in float32 to examples (n, ...)."""
        return np.asarray(in_batches(self._ask, batch, size=self.batch), np.float32)

    def time_block(self, requests: list[np.ndarray]) -> np.ndarray:
        """Nanoseconds (int64) of each request."""
        return time_in_batches(self._ask, requests, size=self.batch)

    def close(self) -> None:
        """Let go of the file."""
        del self._session

    def _ask(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: batch})[0]
