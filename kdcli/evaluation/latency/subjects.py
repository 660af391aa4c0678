"""Subjects of a latency session: a compiled model at a batch size, with requests of real examples."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, Protocol, TypeAlias

import numpy as np

from kdcli.lazy import ops, tf
from kdcli.models.network import Network
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.runtimes.network import RunnerNetwork
from kdcli.tensors import Tensor

POOL_EXAMPLES = 256
# From its first calls, TensorFlow decides for each compiled function which operations run on another thread: two
# functions of one graph can differ by several percent permanently. Timing many of them averages this out.
MAX_INSTANCES, COMPILE_SECONDS = 12, 2.0
# One input as an array with the batch axis, or several as a tuple of arrays.
TimedRequest: TypeAlias = Any


class Subject(Protocol):
    """A model that can be timed."""

    runtime: str
    threads: int

    def time_block(self, requests: list[TimedRequest]) -> np.ndarray:
        """Run the requests one after the other; nanoseconds (int64) of each."""
        ...


# From a batch size to a subject and its requests.
SubjectFactory = Callable[[int], tuple[Subject, list[TimedRequest]]]


class KerasSubject:
    """A network as its compiled TensorFlow function of a fixed shape.

    Args:
        network: the network; its preprocessing is applied beforehand and not timed.
        batch: number of examples in a request.
        instances: how many times it is compiled, time permitting; blocks use the functions in turn.
    """

    runtime = "tensorflow"

    def __init__(self, network: Network, *, batch: int = 1, instances: int = 1) -> None:
        self.threads = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
        functions, began = [compile_network(network, batch=batch)], time.perf_counter()
        while len(functions) < instances and time.perf_counter() - began < COMPILE_SECONDS:
            functions.append(compile_network(network, batch=batch))
        self.instances = len(functions)
        self.function = functions[0]
        self._functions = cycle(functions)

    def time_block(self, requests: list[TimedRequest]) -> np.ndarray:
        """Nanoseconds (int64) of each request, including reading back the output."""
        function, tensor, clock = next(self._functions), tf.convert_to_tensor, time.perf_counter_ns
        taken = np.empty(len(requests), np.int64)
        for number, request in enumerate(requests):
            arrays = request if isinstance(request, tuple) else (request,)
            began = clock()
            function(*[tensor(array) for array in arrays]).numpy()
            taken[number] = clock() - began
        return taken


def make_keras_factory(network: Network, raw: Mapping[str, np.ndarray]) -> SubjectFactory:
    """A factory that times a network in TensorFlow.

    Args:
        network: the network.
        raw: up to 256 real examples by input name, before preprocessing.
    """
    arrays = preprocess_examples(network.preprocessing, raw)

    def make(batch: int) -> tuple[Subject, list[TimedRequest]]:
        instances = MAX_INSTANCES if batch == 1 else 1
        return KerasSubject(network, batch=batch, instances=instances), make_requests(arrays, batch)

    return make


def make_network_factory(network: Network, raw: Mapping[str, np.ndarray]) -> SubjectFactory:
    """A factory that times a network in its own runtime; arguments as in `make_keras_factory`."""
    if isinstance(network, RunnerNetwork):
        return make_runner_factory(network.runner, preprocess_examples(network.preprocessing, raw))
    return make_keras_factory(network, raw)


def make_runner_factory(runner: Subject, arrays: Sequence[np.ndarray]) -> SubjectFactory:
    """A factory for a subject that takes any batch size, such as an opened `.tflite` file.

    Args:
        runner: the subject.
        arrays: up to 256 preprocessed examples, one array for each input.
    """
    return lambda batch: (runner, make_requests(arrays, batch))


def make_requests(arrays: Sequence[np.ndarray], batch: int) -> list[TimedRequest]:
    """Up to 256 examples as requests of `batch` examples; if there are fewer, they are repeated."""
    count = min(len(arrays[0]), POOL_EXAMPLES)
    starts = range(0, max(count - batch, 0) + 1, batch)
    parts = [[array[np.arange(start, start + batch) % count] for array in arrays] for start in starts]
    return [tuple(part) if len(part) > 1 else part[0] for part in parts]


def compile_network(network: Network, *, batch: int) -> Any:
    """The concrete function from preprocessed inputs, in the order of `preprocessing`, to the model's output."""
    identity = {name: _make_identity(one) for name, one in network.preprocessing.items()}
    bare = network.with_preprocessing(identity)

    def compute(*tensors: Tensor) -> Tensor:
        return bare.compute_saved_output(dict(zip(identity, tensors, strict=True)))

    specs = [tf.TensorSpec((batch, *one.preprocessed_shape), one.dtype) for one in identity.values()]
    return tf.function(compute, autograph=False).get_concrete_function(*specs)


def preprocess_examples(
    preprocessing: Mapping[str, Preprocessing], raw: Mapping[str, np.ndarray]
) -> Sequence[np.ndarray]:
    """Apply the preprocessing of each input to raw examples."""
    return [ops.convert_to_numpy(one(raw[name])) for name, one in preprocessing.items()]


def _make_identity(one: Preprocessing) -> Preprocessing:
    """A preprocessing that leaves preprocessed inputs unchanged."""
    return Preprocessing(one.preprocessed_shape, one.dtype, one.shape, one.dtype, scale="raw")
