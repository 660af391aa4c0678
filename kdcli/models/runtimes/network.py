"""A `.tflite` or `.onnx` file as a `Network`: it gives outputs, and nothing in it can be tapped or trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kdcli.errors import KdError, ModelError, summarize_error
from kdcli.lazy import tf
from kdcli.models.network import Network, Outputs, TensorSpec, UnusableModel
from kdcli.models.preprocessing import preprocess
from kdcli.models.runtimes.child_process import FileRunner
from kdcli.models.runtimes.file_tensor import FileTensor
from kdcli.tensors import Shape, Tensor, Tensors

# The scale that converters give an 8-bit softmax or sigmoid: 256 steps from 0 to 1.
_PROBABILITY_STEP = 1 / 256
# Largest difference between two value ranges that count as the same, as a fraction of the range.
_RANGE_TOLERANCE = 0.01


class RunnerNetwork(Network):
    """A file that runs in another process.

    Args:
        runner: the opened file.
        name: name of the model in messages.

    Raises:
        ModelError: an output of unknown size.
    """

    def __init__(self, runner: FileRunner, *, name: str) -> None:
        self.runner = runner
        self.name = name
        self.takes_bytes = any(_takes_bytes(tensor) for tensor in runner.inputs)
        self.inputs = tuple(_make_input_spec(tensor) for tensor in runner.inputs)
        output = runner.output
        self.output_name = output.name
        self.all_outputs = tuple(TensorSpec(one.name, _open_sides(one.shape), one.dtype) for one in runner.outputs)
        self.output_shape = _open_sides(output.shape)
        if not self.output_shape or self.output_shape[-1] is None:
            raise UnusableModel(f"{name}: the size of the output's last axis must be fixed")
        self.outputs = int(self.output_shape[-1])
        self.saved_kind = "probabilities" if _holds_probabilities(output, self.outputs) else "logits"
        # Shared by all copies, as the runner is.
        self.failures: list[KdError] = []

    def close(self) -> None:
        """End the process in which the file runs."""
        self.runner.close()

    def compute_saved_output(self, raw: Tensors) -> Tensor:
        """The output of the file."""
        prepared = preprocess(self.preprocessing, raw)
        batch = [prepared[spec.name] for spec in self.inputs] if isinstance(prepared, dict) else [prepared]
        output = tf.numpy_function(self._predict, batch, tf.float32)
        output.set_shape((None, *self.output_shape))
        return output

    def compute(self, raw: Tensors, *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """The outputs for raw inputs, without features."""
        return Outputs(self._as_logits(self.compute_saved_output(raw)), {})

    def _predict(self, *batch: np.ndarray) -> np.ndarray:
        try:
            return self.runner.predict(batch)
        except KdError as error:
            # TensorFlow replaces the exception by one of its own; `find_failure` returns this one.
            self.failures.append(error)
            raise


def open_runner(
    path: Path, *, form: str, name: str, output: str | None = None, threads: int | None = None
) -> RunnerNetwork:
    """Open a screened file in a process of its own.

    Args:
        path: the file; it is read completely before this returns.
        form: `tflite` or `onnx`.
        name: name of the model in messages.
        output: name of the output; may be omitted if there is only one.
        threads: number of threads the runtime uses; all cores if omitted.

    Raises:
        ModelError: the runtime refuses the file or crashes, the file takes other types than numbers, or an
            optional package is missing.
        UsageError: no such output, or several and none chosen.
    """
    runner = FileRunner(path, form=form, threads=threads, output=output, name=name)
    try:
        return RunnerNetwork(runner, name=name)
    except BaseException:
        runner.close()
        raise


@contextmanager
def unwrap_failures(network: Network) -> Iterator[None]:
    """Raise a runtime's own error instead of the TensorFlow error that it causes in the block."""
    try:
        yield
    except tf.errors.OpError as error:
        if getattr(network, "failures", None):
            raise find_failure(network, error) from error
        raise


def find_failure(network: Network, error: Exception) -> KdError:
    """The runtime's own error behind an error of TensorFlow."""
    failures = getattr(network, "failures", None)
    if failures:
        return failures[-1]
    return ModelError(f"{network.name}: running the model failed: {summarize_error(error):.300}")


def _make_input_spec(tensor: FileTensor) -> TensorSpec:
    # Bytes are passed unchanged; for other quantized inputs the runner takes floats.
    dtype = tensor.dtype if _takes_bytes(tensor) or tensor.scale is None else "float32"
    return TensorSpec(tensor.name, _open_sides(tensor.shape), dtype)


def _open_sides(shape: tuple[int, ...]) -> Shape:
    return tuple(None if side < 0 else side for side in shape)


def _takes_bytes(tensor: FileTensor) -> bool:
    return tensor.dtype == "uint8" and (tensor.scale is None or _has_pixel_range(tensor))


def _has_pixel_range(tensor: FileTensor) -> bool:
    """Whether the bytes 0 to 255 stand for one of the usual ranges of pixel values."""
    scale = tensor.scale or 1.0
    low, high = (scale * (value - tensor.zero_point) for value in (0, 255))
    ranges = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
    return any(max(abs(low - a), abs(high - b)) <= _RANGE_TOLERANCE * (b - a) for a, b in ranges)


def _holds_probabilities(output: FileTensor, outputs: int) -> bool:
    steps = output.is_integer and output.scale is not None and abs(output.scale - _PROBABILITY_STEP) < 1e-9
    return outputs > 1 and steps
