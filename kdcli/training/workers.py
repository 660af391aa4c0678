"""Several processes that train as one: their strategy, and the exchange of values between them."""

from __future__ import annotations

import json
import math
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.errors import TrainingError, UsageError, WorkerLostError, summarize_error
from kdcli.events import Note, OnEvent
from kdcli.lazy import keras, tf
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.tensors import Layer, Tensor
from kdcli.training.cluster import Cluster
from kdcli.training.rendezvous import Rendezvous, read_timeout_seconds

# A process can join only one cluster, and only once.
_joined: dict[Cluster, Any] = {}


class Workers:
    """This process among the workers that train a model together; for a single process nothing is exchanged.

    All workers must call the methods in the same order.

    Args:
        cluster: all workers, and the index of this one.
    """

    def __init__(self, cluster: Cluster | None = None) -> None:
        self.cluster = cluster or Cluster()
        self.index = self.cluster.index
        self.count = len(self.cluster.addresses)
        self.strategy: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes, and decides where workers could differ."""
        return self.index == 0

    def join(self, *, subject: str, stop: Callable[[], int | None], on_event: OnEvent) -> None:
        """Wait for the other workers, then make the strategy; before TensorFlow does anything else.

        Args:
            subject: fingerprint of the work, which must be the same for all workers.
            stop: returns the exit code to stop waiting with, or None.
            on_event: called with a note while it waits.

        Raises:
            TrainingError: a worker did not join in time.
            UsageError: a worker has another subject, or TensorFlow has been used before.
        """
        if self.count == 1:
            return
        if self.cluster not in _joined:
            seconds = read_timeout_seconds()
            with Rendezvous(self.cluster, subject=subject) as rendezvous:
                others = self.count - 1
                name = self.cluster.name(self.index)
                on_event(Note(f"{name}: waiting for {others} other{'s' * (others > 1)} (at most {seconds:g} s)"))
                rendezvous.wait(seconds, stop=stop)
            _joined[self.cluster] = _make_strategy(self.cluster, seconds)
        self.strategy = _joined[self.cluster]
        replicas = self.strategy.num_replicas_in_sync
        if replicas % self.count:
            raise UsageError(
                f"{self.count} workers have {replicas} devices in total: all workers need the same number"
            )
        self._compiled = tf.function(self._sum_rows, autograph=False, reduce_retracing=True)

    def all_gather(self, values: Any) -> np.ndarray:
        """Return every worker's row of numbers: (workers, values), in float64."""
        row = np.atleast_1d(np.asarray(values, np.float64))
        if self.count == 1:
            return row[None]
        rows = self._compiled(tf.constant(row)).numpy()
        return rows[:: len(rows) // self.count]

    def broadcast(self, values: Any) -> np.ndarray:
        """Return the chief's values on all workers."""
        return self.all_gather(np.ravel(values))[0].reshape(np.shape(values))

    def broadcast_object(self, make: Callable[[], Any]) -> Any:
        """Return the chief's result of `make` on all workers; any JSON value."""
        if self.count == 1:
            return make()
        content = json.dumps(make()).encode() if self.is_chief else b""
        length = int(self.broadcast(len(content)))
        codes = self.broadcast(np.frombuffer(content.ljust(length, b" ")[:length], np.uint8))
        return json.loads(codes.astype(np.uint8).tobytes())

    def barrier(self) -> None:
        """Wait for all workers."""
        self.all_gather(0)

    def slice_batch(self, batch: int) -> slice | None:
        """Return this process's slice of a batch; None for a single process."""
        each = batch // self.count
        return None if self.count == 1 else slice(self.index * each, (self.index + 1) * each)

    @contextmanager
    def report_lost_worker(self, run: Path, *, newest: Callable[[], Path | None]) -> Iterator[None]:
        """Name the lost worker when TensorFlow aborts an operation.

        Args:
            run: run directory to resume.
            newest: returns the last checkpoint, or None.

        Raises:
            WorkerLostError: replaces the error of TensorFlow.
        """
        try:
            yield
        except Exception as error:
            lost = None if self.count == 1 else _find_abort(error)
            if lost is None:
                raise
            checkpoint = newest()
            saved = f"the last checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
            name = self._name_lost(lost)
            raise WorkerLostError(
                f"{name} is lost: it was killed, is unreachable, or ended with an error of its own; {saved}",
                run=run,
            ) from error

    def _name_lost(self, text: str) -> str:
        """The name of the worker that TensorFlow's error is about."""
        named = [int(number) for number in re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", text)]
        others = [number for number in named if number != self.index and number < self.count]
        if others:
            return self.cluster.name(others[0])
        # Only the chief receives all heartbeats and can name a worker; the others miss the chief.
        return "another worker" if self.is_chief else self.cluster.name(0)

    def _sum_rows(self, values: Tensor) -> Tensor:
        """One row per replica, filled by it and summed over all."""
        replicas = self.strategy.num_replicas_in_sync

        def row() -> Tensor:
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            # Not by multiplication: zero times infinity is NaN.
            mine = tf.range(replicas) == index
            return tf.where(mine[:, None], values[None], tf.zeros_like(values)[None])

        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, self.strategy.run(row), axis=None)


SINGLE_WORKER = Workers()


def _make_strategy(cluster: Cluster, seconds: float) -> Any:
    devices = {"GPU": len(tf.config.list_physical_devices("GPU"))}
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators=devices,
        rpc_layer="grpc",
    )
    _limit_start_time(cluster, seconds)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except RuntimeError as error:
        raise UsageError(
            f"workers must join before TensorFlow is used in this process ({summarize_error(error):.120})",
            hint="start each worker in its own process: kd ... --devices workers",
        ) from error
    except tf.errors.DeadlineExceededError as error:
        absent = _name_absent(cluster, str(error))
    except tf.errors.OpError as error:
        raise TrainingError(f"the workers could not join: {summarize_error(error):.300}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            # TensorFlow has replaced the SIGTERM handler; Python still knows the previous one.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    # Raised outside the handler: `report_lost_worker` would take it for the loss of a worker that had started.
    raise TrainingError(
        f"{absent} joined the others, but did not start within {seconds:g} s: "
        "it was killed, is unreachable, or ended with an error of its own",
        hint="run the same command again on each worker",
    )


def _limit_start_time(cluster: Cluster, seconds: float) -> None:
    """Limit the time that TensorFlow's start waits for a worker that died after the rendezvous.

    By default TensorFlow waits for an hour and holds the interpreter's lock. There is no public API for these
    settings; the other settings are those that the strategy itself would use.
    """
    from tensorflow.python.eager import context

    context.context().configure_coordination_service(
        "standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=math.ceil(seconds * 1000),
    )
    settings = context.context().coordination_service
    settings.coordinated_job_list.add(name="worker", num_tasks=len(cluster.addresses))
    # Without it, workers would wait for the others later and without a limit.
    settings.cluster_register_with_barrier = True


def _name_absent(cluster: Cluster, text: str) -> str:
    """The workers that did not start. TensorFlow's error lists them, unless the chief itself is absent."""
    _, _, listed = text.partition("timed out task names:")
    # The text after the list names the task that was contacted, not an absent one.
    numbers = re.findall(r"/task:(\d+)", listed.partition("Additional GRPC")[0])
    if not numbers:
        return cluster.name(0) if cluster.index else "another worker"
    return " and ".join(cluster.name(number) for number in sorted(map(int, numbers)))


def _find_abort(error: BaseException | None) -> str | None:
    """The text of TensorFlow's error if it was caused by the end of another worker, also as a nested cause."""
    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    while error is not None:
        if isinstance(error, tf.errors.OpError):
            text = str(error)
            if isinstance(error, kinds) or "Collective ops is aborted" in text or "CoordinationService" in text:
                return text
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def synchronize_batch_norm(layers: Sequence[Layer]) -> Iterator[None]:
    """Let batch normalisation use the statistics of all devices; restore the layers afterwards."""
    before = {id(layer): layer.synchronized for layer in layers}
    for layer in layers:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronized = before[id(layer)]


def find_batch_norms(network: Network) -> list[Layer]:
    """List the Keras batch normalisation layers of a network."""
    layers = network.layers if isinstance(network, KerasNetwork) else []
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
