"""Fast inference of the teacher over many examples, which is most of what a distillation costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any, Self

import numpy as np
import psutil

from kdcli.data.examples import Examples
from kdcli.data.feed import read_host_inputs
from kdcli.data.stream import Stream
from kdcli.data.views import Views
from kdcli.errors import ModelError
from kdcli.lazy import ops, tf
from kdcli.models.hardware import has_gpu, is_fast_in
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.precision import compute_in
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS
from kdcli.models.saved_model.constant_function import ConstantFunction, use_graph_precision
from kdcli.models.saved_model.function import MAX_CONSTANT_BYTES
from kdcli.models.saved_model.network import SavedModelNetwork
from kdcli.tensors import Tensor, Tensors


class TeacherPass:
    """Computes a teacher's outputs fast: with a batch size of its own, in half precision, reading ahead.

    The next batch is read, which may decode images, while the teacher processes the current one. Half precision is
    limited to the pass: the network itself does not change.

    Args:
        teacher: the teacher.
        taps: tapped features to return in addition to the logits.
        examples: the examples.
        views: their augmentation.
        precision: `float32`, `mixed_bfloat16` or `mixed_float16`; it is not checked here.
        batch_size: examples in a batch; found during the pass when left out.
        folding: whether to make constants of the weights first, which takes time, and hides later changes of the
            weights; when left out, for many outputs and for half precision.
        clock: returns seconds, for finding the batch size.

    Example:
        >>> with TeacherPass(teacher, (), examples, views) as teacher_pass:  # doctest: +SKIP
        ...     logits = teacher_pass(0, 0, len(examples))["logits"]
    """

    def __init__(
        self,
        teacher: Network,
        taps: Sequence[str],
        examples: Examples,
        views: Views,
        *,
        precision: str = "float32",
        batch_size: int | None = None,
        folding: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.teacher = teacher
        self.taps = tuple(taps)
        self.examples = examples
        self.views = views
        self.precision = precision
        outputs = len(examples) * (views.count or 1)
        self._batch = InferenceBatchSize(
            batch_size, outputs=outputs, bytes_per_example=count_bytes_per_example(teacher)
        )
        self._clock = clock
        self._tables: dict[int, Tensor] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="kd-examples")
        folding = outputs >= MIN_OUTPUTS_TO_SEARCH or precision != "float32" if folding is None else folding
        self._function = self._compile(folding=folding)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading ahead; may be called twice."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    @property
    def batch_size(self) -> int:
        """Number of examples in the next batch."""
        return self._batch.size

    def __call__(
        self, view: int, start: int, stop: int, *, on_batch: Callable[[int], None] | None = None
    ) -> dict[str, np.ndarray]:
        """Compute the outputs for the examples at positions start .. stop - 1 in a view.

        Args:
            view: number of the view.
            start: position of the first example.
            stop: position after the last example.
            on_batch: called with the number of examples processed so far; it may raise to stop.

        Returns:
            `logits` and the taps, float32 (stop - start, ...) by name.

        Raises:
            ModelError: an output is NaN or infinite.
        """
        outputs: dict[str, np.ndarray] = {}
        table, at = self._draw_table(view), start
        upcoming = self._reader.submit(self._take, start, stop)
        while at < stop:
            positions, raw = upcoming.result()
            end = at + len(positions)
            upcoming = self._reader.submit(self._take, end, stop)
            try:
                batch = self._compute_batch(raw, positions, table)
            except tf.errors.ResourceExhaustedError:
                upcoming.cancel()
                if not self._batch.halve(len(positions)):
                    raise
                upcoming = self._reader.submit(self._take, at, stop)
                continue
            except tf.errors.OpError:
                if self.views.mixes:
                    # Examples to mix in are read inside the function, where errors lose their class.
                    Stream(self.examples, self.views, batch_size=None).report_damage(positions[None], table=table)
                raise
            for name, values in batch.items():
                if name not in outputs:
                    outputs[name] = np.empty((stop - start, *values.shape[1:]), values.dtype)
                outputs[name][at - start : end - start] = values
            at = end
            if on_batch is not None:
                on_batch(at - start)
        for name, values in outputs.items():
            check_finite_outputs(self.teacher, name, values, start=start)
        return outputs

    def _take(self, at: int, stop: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        positions = np.arange(at, min(at + self._batch.size, stop))
        return positions, self.examples.take(positions) if len(positions) else {}

    def _compute_batch(
        self, raw: Mapping[str, np.ndarray], positions: np.ndarray, table: Tensor
    ) -> dict[str, np.ndarray]:
        inputs = {name: tf.convert_to_tensor(value) for name, value in raw.items()}
        began = self._clock()
        tensors = self._function(inputs, tf.convert_to_tensor(positions), table)
        outputs = {name: value.numpy() for name, value in tensors.items()}
        self._batch.record(len(positions), self._clock() - began)
        return outputs

    def _compile(self, *, folding: bool) -> Callable[..., Tensors]:
        """Compile one function for all batch sizes, with constants for the weights if that pays.

        Half precision comes from the policies of the layers, which are restored at once, or from a graph option
        that is set around each call.
        """
        is_keras, precision = isinstance(self.teacher, KerasNetwork), self.precision
        weight_bytes = 4 * (self.teacher.parameters or 0)
        if (
            folding
            and weight_bytes <= MAX_CONSTANT_BYTES
            and isinstance(self.teacher, KerasNetwork | SavedModelNetwork)
        ):
            # On a CPU that multiplies bfloat16 the graph option is faster; GPUs need the policies.
            by_policy = is_keras and (has_gpu() or not is_fast_in(precision))
            traced = self._trace(precision if by_policy else "float32")
            try:
                return ConstantFunction(traced, precision="float32" if by_policy else precision, exact=LOGITS)
            except ValueError:
                # Not possible for this graph: the function below is slower, with the same outputs.
                pass
        traced = self._trace(precision if is_keras else "float32")
        if is_keras or precision == "float32":
            return traced

        def call_in_precision(*arguments: Any) -> Tensors:
            with use_graph_precision(precision):
                return traced(*arguments)

        return call_in_precision

    def _trace(self, precision: str) -> Callable[..., Tensors]:
        with compute_in(self.teacher, precision):
            function = tf.function(self._compute, autograph=False)
            return function.get_concrete_function(*self._make_signature())

    def _compute(self, raw: Tensors, positions: Tensor, table: Tensor) -> dict[str, Tensor]:
        inputs = self.views.apply(raw, positions, table, take=lambda at: read_host_inputs(self.examples, at))
        output = self.teacher.compute(inputs, taps=self.taps, training=False)
        # Half precision is for computing only; the dtype for storage is chosen elsewhere.
        return {name: ops.cast(v, "float32") for name, v in {LOGITS: output.logits, **output.features}.items()}

    def _make_signature(self) -> tuple[Any, ...]:
        shapes, dtypes = self.examples.shapes, self.examples.dtypes
        raw = {name: tf.TensorSpec((None, *shape), dtypes[name], name=name) for name, shape in shapes.items()}
        return raw, tf.TensorSpec((None,), tf.int64), tf.TensorSpec(self._draw_table(0).shape, tf.float32)

    def _draw_table(self, view: int) -> Tensor:
        if view not in self._tables:
            # Shards come view by view, so the table of the last view is enough.
            self._tables = {view: self.views.table(view)}
        return self._tables[view]


FIRST_BATCH_SIZE, MAX_BATCH_SIZE = 32, 1024
# With fewer outputs than this, the search would take longer than it saves: the default is used.
MIN_OUTPUTS_TO_SEARCH, DEFAULT_BATCH_SIZE = 4096, 256
# Factor by which the rate must grow for the next size to be tried.
_MIN_RATE_GROWTH = 1.05
# Batches timed for each size, after one that warms up.
_TIMED_BATCHES = 3
# Consecutive sizes without growth that end the search; a single one may have been disturbed.
_MAX_SLOW_SIZES = 2


class InferenceBatchSize:
    """Finds the fastest batch size during inference, by timing batches that have to be computed anyway.

    `size` is the size of the next batch.

    Args:
        batch_size: a fixed size; None to search.
        outputs: number of outputs to compute.
        bytes_per_example: memory that inference of one example takes.
    """

    def __init__(self, batch_size: int | None, *, outputs: int, bytes_per_example: int) -> None:
        self._bytes_per_example = max(bytes_per_example, 1)
        self._seconds: list[float] = []
        self._best = (0.0, FIRST_BATCH_SIZE)
        self._slow_sizes = 0
        self.searching = batch_size is None and outputs >= MIN_OUTPUTS_TO_SEARCH
        self.size = batch_size or (FIRST_BATCH_SIZE if self.searching else DEFAULT_BATCH_SIZE)
        if batch_size is None:
            self.size = min(self.size, self._count_fitting_examples())

    def record(self, examples: int, seconds: float) -> None:
        """Record the time of a batch."""
        if not self.searching or examples != self.size:
            return
        self._seconds.append(seconds)
        if len(self._seconds) <= _TIMED_BATCHES:
            return
        # Other load on the machine only slows batches down, so the fastest one counts.
        rate = self.size / max(min(self._seconds[1:]), 1e-9)
        self._seconds = []
        if rate > _MIN_RATE_GROWTH * self._best[0]:
            self._best, self._slow_sizes = (rate, self.size), 0
        else:
            self._slow_sizes += 1
        too_large = 2 * self.size > min(MAX_BATCH_SIZE, self._count_fitting_examples())
        if self._slow_sizes == _MAX_SLOW_SIZES or too_large:
            self.searching = False
            self.size = self._best[1]
        else:
            self.size *= 2

    def halve(self, examples: int) -> bool:
        """Halve the size after a batch of `examples` ran out of memory; False if it had only one example."""
        self.searching = False
        self.size = max(1, examples // 2)
        return examples > 1

    def _count_fitting_examples(self) -> int:
        """Count the examples that fit into half of the free memory, at least one."""
        return max(1, psutil.virtual_memory().available // 2 // self._bytes_per_example)


def count_bytes_per_example(teacher: Network) -> int:
    """Bound the memory that inference of one example takes: its inputs and all activations in float32."""
    shapes = [spec.shape for spec in teacher.inputs] + list(teacher.taps.values()) + [teacher.output_shape]
    return 4 * sum(prod(side or 1 for side in shape) for shape in shapes)


def check_finite_outputs(teacher: Network, name: str, values: np.ndarray, *, start: int = 0) -> None:
    """Refuse outputs that contain NaN or infinity.

    Args:
        teacher: the teacher.
        name: `logits` or a tap.
        values: outputs (n, ...).
        start: position of the first example.

    Raises:
        ModelError: with the number of such examples and the position of the first.
    """
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        first = start + int(np.flatnonzero(~finite)[0])
        raise ModelError(
            f"the teacher ({teacher.name}) computes NaN or infinity for {int((~finite).sum()):,} of "
            f"{len(values):,} examples ({name}, first at position {first:,})",
            hint="check teacher.input.scale, and the weights: kd evaluate FILE",
        )
