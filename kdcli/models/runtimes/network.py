"""A `.tflite` or `.onnx` file as a `Network`: its answers count, nothing in it can be tapped or trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.errors import KdError, ModelError, summarize_error
from kdcli.lazy import tf
from kdcli.models.network import Network, Outputs, TensorSpec, UnusableModel
from kdcli.models.preprocessing import preprocess
from kdcli.models.runtimes.runner import FileRunner
from kdcli.models.runtimes.tensor_info import FileTensor

# What converters give an 8-bit softmax or sigmoid: 256 steps from 0 to 1.
_STEP = 1 / 256
# How far a range may be from another, as a share, to be meant as the same.
_NEAR = 0.01


class RunnerNetwork(Network):
    """Answers raw examples through a reader in another process.

    Args:
        runner: an opened file.
        name: what messages call it.

    Raises:
        ModelError: an output whose size is not known.
    """

    def __init__(self, runner: FileRunner, *, name: str) -> None:
        self.runner = runner
        self.name = name
        self.takes_bytes = any(_takes_bytes(info) for info in runner.inputs)
        self.inputs = tuple(_spec(info) for info in runner.inputs)
        output = runner.output
        self.output_name = output.name
        self.all_outputs = tuple(TensorSpec(one.name, _sides(one.shape), one.dtype) for one in runner.outputs)
        self.output_shape = _sides(output.shape)
        if not self.output_shape or self.output_shape[-1] is None:
            raise UnusableModel(f"{name}: the size of the output's last axis must be fixed")
        self.outputs = int(self.output_shape[-1])
        self.saved_kind = "probabilities" if _in_steps(output, self.outputs) else "logits"
        # Shared by all copies, as the reader is.
        self.failures: list[KdError] = []

    def close(self) -> None:
        """End the reader."""
        self.runner.close()

    def compute_saved_output(self, raw: Mapping[str, Any]) -> Any:
        """What the file itself answers."""
        prepared = preprocess(self.preprocessing, raw)
        batch = [prepared[spec.name] for spec in self.inputs] if isinstance(prepared, dict) else [prepared]
        answered = tf.numpy_function(self._asked, batch, tf.float32)
        answered.set_shape((None, *self.output_shape))
        return answered

    def compute(self, raw: Mapping[str, Any], *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """Prepare raw inputs and answer them."""
        return Outputs(self._as_logits(self.compute_saved_output(raw)), {})

    def _asked(self, *batch: np.ndarray) -> np.ndarray:
        try:
            return self.runner.predict(batch)
        except KdError as error:
            # On its way through TensorFlow an exception loses its class: whoever asked looks here.
            self.failures.append(error)
            raise


def open_runner(
    path: Path, *, form: str, name: str, output: str | None = None, threads: int | None = None
) -> RunnerNetwork:
    """A screened file in a process of its own.

    Args:
        path: the file; it is read whole before this returns.
        form: `tflite` or `onnx`.
        name: what messages call it.
        output: which of several outputs.
        threads: for its operations; every core when left out.

    Raises:
        ModelError: its runtime refuses it or dies of it, it holds what kd cannot feed, or an extra is missing.
        UsageError: no such output, or several and none chosen.
    """
    runner = FileRunner(path, form=form, threads=threads, output=output, name=name)
    try:
        return RunnerNetwork(runner, name=name)
    except BaseException:
        runner.close()
        raise


@contextmanager
def unwrap_failures(network: Any) -> Iterator[None]:
    """Within the block a reader's failure is said as itself, and not as what TensorFlow makes of it."""
    try:
        yield
    except tf.errors.OpError as error:
        if getattr(network, "failures", None):
            raise find_failure(network, error) from error
        raise


def find_failure(network: Any, error: Exception) -> KdError:
    """The reader's own failure behind one of TensorFlow's."""
    failures = getattr(network, "failures", None)
    if failures:
        return failures[-1]
    reason = summarize_error(error)
    return ModelError(f"{network.name}: cannot be asked: {reason:.300}")


def _spec(info: FileTensor) -> TensorSpec:
    # Bytes go in as they are; what other quantised inputs hold, the reader makes from floats.
    dtype = info.dtype if _takes_bytes(info) or info.scale is None else "float32"
    return TensorSpec(info.name, _sides(info.shape), dtype)


def _sides(shape: tuple[int, ...]) -> tuple[int | None, ...]:
    return tuple(None if side < 0 else side for side in shape)


def _takes_bytes(info: FileTensor) -> bool:
    return info.dtype == "uint8" and (info.scale is None or _spans_bytes(info))


def _spans_bytes(given: FileTensor) -> bool:
    """Whether the bytes 0 to 255 stand for one of the ranges to which pictures are scaled."""
    scale = given.scale or 1.0
    low, high = (scale * (value - given.zero_point) for value in (0, 255))
    ranges = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
    return any(max(abs(low - a), abs(high - b)) <= _NEAR * (b - a) for a, b in ranges)


def _in_steps(output: FileTensor, outputs: int) -> bool:
    return outputs > 1 and output.is_integer and output.scale is not None and abs(output.scale - _STEP) < 1e-9
