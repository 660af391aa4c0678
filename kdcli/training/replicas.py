"""Several processes as one: who this is among them, and what they have to say to each other."""

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
from kdcli.training.cluster import Cluster
from kdcli.training.rendezvous import Rendezvous, read_timeout_seconds

# A process can join one cluster, once.
_joined: dict[Cluster, Any] = {}


class Workers:
    """This process among those that train one model together; alone it costs nothing.

    What is said here must be said by all of them in the same order.

    Args:
        cluster: all workers, and which of them this is.
    """

    def __init__(self, cluster: Cluster | None = None) -> None:
        self.cluster = cluster or Cluster()
        self.index = self.cluster.index
        self.count = len(self.cluster.addresses)
        self.strategy: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this one writes, and decides where they could differ."""
        return self.index == 0

    def join(self, *, subject: str, stop: Callable[[], int | None], on_event: OnEvent) -> None:
        """Wait for the others, then make the strategy; before anything else that TensorFlow does.

        Args:
            subject: what the work is; all must have come for the same.
            stop: gives the exit code to stop waiting with, or None.
            on_event: told that it waits.

        Raises:
            TrainingError: somebody did not come in time.
            UsageError: somebody came for something else, or TensorFlow has worked before.
        """
        if self.count == 1:
            return
        if self.cluster not in _joined:
            seconds = read_timeout_seconds()
            with Rendezvous(self.cluster, subject=subject) as meeting:
                others = self.count - 1
                name = self.cluster.name(self.index)
                on_event(Note(f"{name}: waiting for {others} other{'s' * (others > 1)} (at most {seconds:g} s)"))
                meeting.wait(seconds, stop=stop)
            _joined[self.cluster] = _strategy(self.cluster, seconds)
        self.strategy = _joined[self.cluster]
        replicas = self.strategy.num_replicas_in_sync
        if replicas % self.count:
            raise UsageError(f"{self.count} workers have {replicas} devices: each needs as many as the others")
        self._compiled = tf.function(self._summed, autograph=False, reduce_retracing=True)

    def gather(self, values: Any) -> np.ndarray:
        """What every worker has to say: (workers, values) of one row of numbers each, in float64."""
        own = np.atleast_1d(np.asarray(values, np.float64))
        if self.count == 1:
            return own[None]
        rows = self._compiled(tf.constant(own)).numpy()
        return rows[:: len(rows) // self.count]

    def broadcast(self, values: Any) -> np.ndarray:
        """The chief's values, for all."""
        return self.gather(values)[0].reshape(np.shape(values))

    def share(self, make: Callable[[], Any]) -> Any:
        """What the chief makes, for all: anything that JSON can say."""
        if self.count == 1:
            return make()
        content = json.dumps(make()).encode() if self.is_chief else b""
        length = int(self.broadcast(len(content)))
        codes = self.broadcast(np.frombuffer(content.ljust(length, b" ")[:length], np.uint8))
        return json.loads(codes.astype(np.uint8).tobytes())

    def barrier(self) -> None:
        """Wait until all are here."""
        self.gather(0)

    def slice_batch(self, batch: int) -> slice | None:
        """The part of a batch that this process takes; None when it takes all of it."""
        each = batch // self.count
        return None if self.count == 1 else slice(self.index * each, (self.index + 1) * each)

    @contextmanager
    def report_lost_worker(self, run: Path, *, newest: Callable[[], Path | None]) -> Iterator[None]:
        """Say which worker is gone where TensorFlow says that an operation was aborted.

        Args:
            run: the directory to resume.
            newest: the last checkpoint, or None.

        Raises:
            WorkerLostError: in place of the error.
        """
        try:
            yield
        except Exception as error:
            lost = None if self.count == 1 else _aborted(error)
            if lost is None:
                raise
            kept = newest()
            raise WorkerLostError(
                f"{self._gone(lost)} is gone: killed, unreachable, or ended by an error that it names itself; "
                + (f"the last checkpoint is {kept}" if kept else "there is no checkpoint yet"),
                run=run,
            ) from error

    def _gone(self, text: str) -> str:
        """The worker that an error of TensorFlow is about."""
        named = [int(number) for number in re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", text)]
        others = [number for number in named if number != self.index and number < self.count]
        if others:
            return self.cluster.name(others[0])
        # Only who looks after the heartbeats of all can name one: the others miss the chief.
        return "another worker" if self.is_chief else self.cluster.name(0)

    def _summed(self, values: Any) -> Any:
        """One row for each replica, filled in by it, summed over all."""
        replicas = self.strategy.num_replicas_in_sync

        def row() -> Any:
            own = tf.distribute.get_replica_context().replica_id_in_sync_group
            # Not by multiplying: zero times infinity is no number.
            mine = tf.range(replicas) == own
            return tf.where(mine[:, None], values[None], tf.zeros_like(values)[None])

        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, self.strategy.run(row), axis=None)


SINGLE_WORKER = Workers()


def _strategy(cluster: Cluster, seconds: float) -> Any:
    devices = {"GPU": len(tf.config.list_physical_devices("GPU"))}
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators=devices,
        rpc_layer="grpc",
    )
    _bound_the_start(cluster, seconds)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except RuntimeError as error:
        raise UsageError(
            f"workers must join before TensorFlow has worked in this process ({summarize_error(error):.120})",
            hint="a process of its own for each worker: kd ... --devices workers",
        ) from error
    except tf.errors.DeadlineExceededError as error:
        absent = _absent(cluster, str(error))
    except tf.errors.OpError as error:
        raise TrainingError(f"the workers could not join: {summarize_error(error):.300}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            # TensorFlow took SIGTERM for itself; Python still knows whose it was.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    # Outside of the error: `named_when_lost` would take this for the loss of somebody who had started.
    raise TrainingError(
        f"{absent} met the others, but did not start with them in {seconds:g} s: "
        "killed, unreachable, or ended by an error that it names itself",
        hint="the same command again on each worker",
    )


def _bound_the_start(cluster: Cluster, seconds: float) -> None:
    """Let TensorFlow's start fail when a worker dies between the meeting and it.

    By itself TensorFlow waits there for an hour, holding the interpreter's lock. There is no public way to these
    settings; the others are those that the strategy itself would make.
    """
    from tensorflow.python.eager import context

    context.context().configure_coordination_service(
        "standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=math.ceil(seconds * 1000),
    )
    settings = context.context().coordination_service
    settings.coordinated_job_list.add(name="worker", num_tasks=len(cluster.addresses))
    # Without it who has come does not wait here for the others, but later and without a limit.
    settings.cluster_register_with_barrier = True


def _absent(cluster: Cluster, text: str) -> str:
    """Who did not start: TensorFlow's error names them, unless the chief, who would count them, is absent."""
    _, _, listed = text.partition("timed out task names:")
    # What follows the list is about who was asked, not about who is absent.
    numbers = re.findall(r"/task:(\d+)", listed.partition("Additional GRPC")[0])
    if not numbers:
        return cluster.name(0) if cluster.index else "another worker"
    return " and ".join(cluster.name(number) for number in sorted(map(int, numbers)))


def _aborted(error: BaseException | None) -> str | None:
    """What TensorFlow says where it was stopped by the end of another worker, also inside of another error."""
    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    while error is not None:
        if isinstance(error, tf.errors.OpError):
            text = str(error)
            if isinstance(error, kinds) or "Collective ops is aborted" in text or "CoordinationService" in text:
                return text
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def synchronize_batch_norm(layers: Sequence[Any]) -> Iterator[None]:
    """Let batch normalisation see the whole batch over all devices; afterwards the layers are as they were."""
    before = {id(layer): layer.synchronized for layer in layers}
    for layer in layers:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronized = before[id(layer)]


def find_batch_norms(network: Network) -> list[Any]:
    """The batch normalisations of a network that Keras knows."""
    layers = network.layers if isinstance(network, KerasNetwork) else []
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
