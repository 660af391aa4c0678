"""A `.tflite` file as a `Network`: what it answers counts, nothing inside it can be tapped or trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcli.errors import KdError, ModelError
from kdcli.lazy import tf
from kdcli.models.litert import LiteRT, TensorInfo
from kdcli.models.network import Answer, InputSpec, Network
from kdcli.models.preparation import prepare

# What converters give an 8-bit softmax or sigmoid: 256 steps from 0 to 1.
_STEP = 1 / 256
# How far a range may be from another, as a share, to be meant as the same.
_NEAR = 0.01


class LiteNetwork(Network):
    """Answers raw examples through a reader in another process.

    Args:
        runner: `kdcli.models.litert.LiteRT`.
        name: what messages call it.
        output_kind: where a file beside it says so; else found on its answers.
    """

    def __init__(self, runner: LiteRT, *, name: str, output_kind: str | None = None) -> None:
        self.runner = runner
        self.name = name
        info = runner.input
        self.takes_bytes = info.dtype == "uint8" and (info.scale is None or _spans_bytes(info))
        # Bytes go in as they are; what other quantised inputs hold, the reader makes from floats.
        dtype = info.dtype if self.takes_bytes or info.scale is None else "float32"
        self.inputs = (InputSpec(info.name, _sides(info.shape), dtype),)
        self.output_shape = _sides(runner.output.shape)
        if not self.output_shape or self.output_shape[-1] is None:
            raise ModelError(f"{name}: the size of the output's last axis must be fixed")
        self.outputs = int(self.output_shape[-1])
        self.output_kind = output_kind or ("probabilities" if _in_steps(runner.output, self.outputs) else "logits")
        # Shared by all copies, as the reader is.
        self.failures: list[KdError] = []

    def output(self, raw: Mapping[str, Any]) -> Any:
        """What the file itself answers."""
        answered = tf.numpy_function(self._asked, [prepare(self.preparations, raw)], tf.float32)
        answered.set_shape((None, *self.output_shape))
        return answered

    def answer(self, raw: Mapping[str, Any], *, taps: Sequence[str] = (), training: bool = False) -> Answer:
        """Prepare raw inputs and answer them."""
        return Answer(self._as_logits(self.output(raw)), {})

    def _asked(self, batch: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(self.runner.answer(batch), np.float32)
        except KdError as error:
            # On its way through TensorFlow an exception loses its class: whoever asked looks here.
            self.failures.append(error)
            raise


def _sides(shape: tuple[int, ...]) -> tuple[int | None, ...]:
    return tuple(None if side < 0 else side for side in shape)


def explain(network: Any, error: Exception) -> KdError:
    """The reader's own failure behind one of TensorFlow's."""
    failures = getattr(network, "failures", None)
    if failures:
        return failures[-1]
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelError(f"{network.name}: cannot be asked: {reason:.300}")


def _spans_bytes(given: TensorInfo) -> bool:
    """Whether the bytes 0 to 255 stand for one of the ranges to which pictures are scaled."""
    scale = given.scale or 1.0
    low, high = (scale * (value - given.zero_point) for value in (0, 255))
    ranges = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
    return any(max(abs(low - a), abs(high - b)) <= _NEAR * (b - a) for a, b in ranges)


def _in_steps(output: TensorInfo, outputs: int) -> bool:
    return outputs > 1 and output.integer and output.scale is not None and abs(output.scale - _STEP) < 1e-9
