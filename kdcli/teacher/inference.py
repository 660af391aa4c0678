"""The teacher's answers to many examples, fast: they are most of what a distillation costs."""

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


class TeacherPass:
    """Answers examples in views, fast: its own batch size, half precision where asked, decoding ahead of teaching.

    The next batch is taken, which may read and decode pictures, while the teacher answers this one. Half
    precision ends with the pass: the network is what it was, and nothing else computes with less.

    Args:
        teacher: whom to ask.
        taps: features to keep beside the logits.
        examples: what is asked.
        views: their augmentation.
        precision: `float32`, `mixed_bfloat16` or `mixed_float16` (`precision_choice` chooses and refuses).
        batch_size: examples in a batch; found while answering when left out.
        folding: make constants of the weights first, which takes a while; when left out, for many answers and
            half precision. Weights that are assigned later are not seen then.
        clock: seconds, for finding the batch size.
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
        answers = len(examples) * (views.count or 1)
        self._batch = InferenceBatchSize(batch_size, answers=answers, bytes_each=bytes_of_an_example(teacher))
        self._clock = clock
        self._tables: dict[int, Any] = {}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="kd-examples")
        folding = answers >= FEW or precision != "float32" if folding is None else folding
        self._ask = self._compiled(folding=folding)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading ahead; closing twice is no error."""
        self._ahead.shutdown(wait=True, cancel_futures=True)

    @property
    def batch_size(self) -> int:
        """Examples in the next batch."""
        return self._batch.size

    def __call__(
        self, view: int, start: int, stop: int, *, on_batch: Callable[[int], None] | None = None
    ) -> dict[str, np.ndarray]:
        """The answers to the examples at positions start .. stop - 1 in a view, float32 by name.

        Args:
            view: its number.
            start: of the first example.
            stop: after the last one.
            on_batch: called with the number of examples answered so far; it may raise to stop.

        Returns:
            `logits` and the taps, (stop - start, ...) each.

        Raises:
            ModelError: an answer is NaN or infinite.
        """
        kept: dict[str, np.ndarray] = {}
        table, at = self._table(view), start
        coming = self._ahead.submit(self._take, start, stop)
        while at < stop:
            positions, raw = coming.result()
            end = at + len(positions)
            coming = self._ahead.submit(self._take, end, stop)
            try:
                answered = self._asked(raw, positions, table)
            except tf.errors.ResourceExhaustedError:
                coming.cancel()
                if not self._batch.ran_out_of_memory(len(positions)):
                    raise
                coming = self._ahead.submit(self._take, at, stop)
                continue
            except tf.errors.OpError:
                if self.views.mixes:
                    # A partner that is mixed in is read while the function runs, where errors lose their class.
                    Stream(self.examples, self.views, batch_size=None).report_damage(positions[None], table=table)
                raise
            for name, values in answered.items():
                if name not in kept:
                    kept[name] = np.empty((stop - start, *values.shape[1:]), values.dtype)
                kept[name][at - start : end - start] = values
            at = end
            if on_batch is not None:
                on_batch(at - start)
        for name, values in kept.items():
            check_finite_outputs(self.teacher, name, values, start=start)
        return kept

    def _take(self, at: int, stop: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        positions = np.arange(at, min(at + self._batch.size, stop))
        return positions, self.examples.take(positions) if len(positions) else {}

    def _asked(self, raw: Mapping[str, np.ndarray], positions: np.ndarray, table: Any) -> dict[str, np.ndarray]:
        given = {name: tf.convert_to_tensor(value) for name, value in raw.items()}
        began = self._clock()
        answers = self._ask(given, tf.convert_to_tensor(positions), table)
        found = {name: value.numpy() for name, value in answers.items()}
        self._batch.took(len(positions), self._clock() - began)
        return found

    def _compiled(self, *, folding: bool) -> Callable[..., dict[str, Any]]:
        """One function for every batch size: its weights as constants where that pays, else with its layers'
        policies, which are put back at once, or with the graph's option around each call.
        """
        layered, short = isinstance(self.teacher, KerasNetwork), self.precision
        weights = 4 * (self.teacher.parameters or 0)
        if (
            folding
            and weights <= MAX_CONSTANT_BYTES
            and isinstance(self.teacher, KerasNetwork | SavedModelNetwork)
        ):
            # With the hardware for it the option is the faster way on a processor; GPUs take the policies.
            by_policy = layered and (has_gpu() or not is_fast_in(short))
            traced = self._traced(short if by_policy else "float32")
            try:
                return ConstantFunction(traced, precision="float32" if by_policy else short, exact=LOGITS)
            except ValueError:
                # It answers as it is, only slower.
                pass
        traced = self._traced(short if layered else "float32")
        if layered or short == "float32":
            return traced

        def ask(*given: Any) -> dict[str, Any]:
            with use_graph_precision(short):
                return traced(*given)

        return ask

    def _traced(self, precision: str) -> Any:
        with compute_in(self.teacher, precision):
            return tf.function(self._answer, autograph=False).get_concrete_function(*self._signature())

    def _answer(self, raw: Mapping[str, Any], positions: Any, table: Any) -> dict[str, Any]:
        seen = self.views.apply(raw, positions, table, take=lambda at: read_host_inputs(self.examples, at))
        answer = self.teacher.compute(seen, taps=self.taps, training=False)
        kept = {LOGITS: answer.logits, **answer.features}
        # Half precision is for computing: whoever keeps the answers decides in which type.
        return {name: ops.cast(value, "float32") for name, value in kept.items()}

    def _signature(self) -> tuple[Any, ...]:
        shapes, dtypes = self.examples.shapes, self.examples.dtypes
        raw = {name: tf.TensorSpec((None, *shape), dtypes[name], name=name) for name, shape in shapes.items()}
        return raw, tf.TensorSpec((None,), tf.int64), tf.TensorSpec(self._table(0).shape, tf.float32)

    def _table(self, view: int) -> Any:
        if view not in self._tables:
            # Shards come view by view: the last one is enough.
            self._tables = {view: self.views.table(view)}
        return self._tables[view]


FIRST, LARGEST = 32, 1024
# What is used where so few answers are wanted that finding a better one takes longer than it saves.
SETTLED, FEW = 256, 4096
# By how much the rate must grow for the next size to be tried.
GROWTH = 1.05
# Batches of a size that are timed; the first one of a size prepares and is not.
_TIMED = 3
# Sizes in a row that may be no faster: the first one may have been disturbed.
_IN_VAIN = 2


class InferenceBatchSize:
    """Found while answering, so that no answer is wasted: each size is timed on batches that are wanted anyway.

    `size` is what the next batch should have.

    Args:
        wanted: this size, and no other; None finds one.
        answers: how many are wanted in all.
        bytes_each: what an example takes while it is answered.
    """

    def __init__(self, wanted: int | None, *, answers: int, bytes_each: int) -> None:
        self._bytes_each = max(bytes_each, 1)
        self._times: list[float] = []
        self._best = (0.0, FIRST)
        self._in_vain = 0
        self.searching = wanted is None and answers >= FEW
        self.size = wanted or (FIRST if self.searching else SETTLED)
        if wanted is None:
            self.size = min(self.size, self._fitting())

    def took(self, examples: int, seconds: float) -> None:
        """A batch was answered."""
        if not self.searching or examples != self.size:
            return
        self._times.append(seconds)
        if len(self._times) <= _TIMED:
            return
        # Whatever else the machine does can only slow a batch down: the fastest one is what the size can do.
        rate = self.size / max(min(self._times[1:]), 1e-9)
        self._times = []
        if rate > GROWTH * self._best[0]:
            self._best, self._in_vain = (rate, self.size), 0
        else:
            self._in_vain += 1
        if self._in_vain == _IN_VAIN or 2 * self.size > min(LARGEST, self._fitting()):
            self.searching = False
            self.size = self._best[1]
        else:
            self.size *= 2

    def ran_out_of_memory(self, examples: int) -> bool:
        """A batch did not fit: go on with half of it; False where nothing smaller is left."""
        self.searching = False
        self.size = max(1, examples // 2)
        return examples > 1

    def _fitting(self) -> int:
        """How many examples fit into half of the free memory, at least one."""
        return max(1, psutil.virtual_memory().available // 2 // self._bytes_each)


def bytes_of_an_example(teacher: Network) -> int:
    """What one example takes while it is answered, at most: its input and everything between, in float32."""
    shapes = [spec.shape for spec in teacher.inputs] + list(teacher.taps.values()) + [teacher.output_shape]
    return 4 * sum(prod(side or 1 for side in shape) for shape in shapes)


def check_finite_outputs(teacher: Network, name: str, values: np.ndarray, *, start: int = 0) -> None:
    """Refuse answers of which one is NaN or infinite.

    Args:
        teacher: who answered.
        name: `logits` or a tap.
        values: (n, ...).
        start: the position of the first example.

    Raises:
        ModelError: with how many, and the position of the first.
    """
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        first = start + int(np.flatnonzero(~finite)[0])
        raise ModelError(
            f"the teacher ({teacher.name}) answers {int((~finite).sum())} of {len(values)} examples with NaN or "
            f"infinity (first at {first}; {name})",
            hint="check its input.scale and its weights: kd evaluate it alone",
        )
