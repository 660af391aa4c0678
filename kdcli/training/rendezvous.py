"""The rendezvous of all workers before TensorFlow starts, which would wait for absent ones for an hour in silence.

Every worker listens on its own address and queries all others in turn. When all workers have reached all others,
the chief confirms it, and the addresses are free for TensorFlow.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from kdcli.errors import Interrupted, TrainingError, UsageError
from kdcli.training.cluster import Cluster

TIMEOUT_VARIABLE = "KD_WORKERS_TIMEOUT"
# Pause between two rounds of queries, and time limit of one reply.
PAUSE_SECONDS, REPLY_SECONDS = 0.2, 2.0
LONGEST_SECONDS = 86_400
_SAME = "use the same command and cluster for all workers; only task.index of TF_CONFIG differs"


def read_timeout_seconds() -> float:
    """Read how long workers wait for each other: `KD_WORKERS_TIMEOUT`, or five minutes.

    Raises:
        UsageError: the value is not a number of seconds up to one day.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "300")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_SECONDS:
        raise UsageError(
            f"{TIMEOUT_VARIABLE} must be a number of seconds, at most {LONGEST_SECONDS} (got {text[:80]!r})",
            hint=f"{TIMEOUT_VARIABLE}=600",
        )
    return seconds


class Rendezvous:
    """This worker's side of the rendezvous: it answers queries, and queries the others.

    Args:
        cluster: the expected workers.
        subject: fingerprint of the work, which must be the same for all workers.

    Raises:
        TrainingError: this worker's port is in use.
    """

    def __init__(self, cluster: Cluster, *, subject: str) -> None:
        self.cluster = cluster
        self.subject = subject
        # Includes this worker: a wrong index, or an address that others cannot reach, is detected here.
        self.missing = dict.fromkeys(range(len(cluster.addresses)), "it was not contacted")
        self._token = secrets.token_hex(8)
        self._fault: UsageError | None = None
        # On the chief: workers that have reached all others, and workers that know that all have.
        self._ready: set[int] = set()
        self._informed: set[int] = set()
        self._lock = threading.Lock()
        port = int(cluster.addresses[cluster.index].rpartition(":")[2])
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        try:
            self._server = socket.create_server(("", port), family=family, backlog=128, dualstack_ipv6=both)
        except OSError as error:
            why = os.strerror(error.errno or 0).lower()
            raise TrainingError(
                f"{cluster.name(cluster.index)} cannot listen on port {port}: {why}",
                hint="stop the process that uses it, or set another port in the TF_CONFIG of every worker",
            ) from None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Wakes a thread that waits in accept, which close does not.
        try:
            self._server.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join(REPLY_SECONDS)
        self._server.close()

    def wait(self, seconds: float, *, stop: Callable[[], int | None]) -> None:
        """Return when every worker has reached every other one.

        Raises:
            TrainingError: a worker is missing; the message names its address.
            UsageError: a worker has another cluster or subject.
            Interrupted: `stop` returned an exit code.
        """
        until = time.monotonic() + seconds
        while not self._all_met():
            code = stop()
            if code is not None:
                raise Interrupted("stopped while waiting for the other workers", exit_code=code)
            if time.monotonic() >= until:
                raise self._absence_error(seconds)
            time.sleep(PAUSE_SECONDS)

    def _all_met(self) -> bool:
        if self._fault is not None:
            raise self._fault
        for number in list(self.missing):
            reply = self._query(number)
            if reply is not None:
                del self.missing[number]
        if self.missing:
            return False
        if self.cluster.index == 0:
            with self._lock:
                return len(self._informed) == len(self.cluster.addresses) - 1
        reply = self._query(0, ready=True)
        return reply is not None and reply.get("all") is True

    def _query(self, number: int, *, ready: bool = False) -> dict[str, Any] | None:
        """Query a worker; None without a valid reply, with the reason in `missing`."""
        host, _, port = self.cluster.addresses[number].rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=REPLY_SECONDS) as connection:
                connection.sendall(self._message(ready=ready))
                reply = _read(connection)
        except OSError as error:
            reason = str(error.strerror or error).lower()
        else:
            if reply is not None:
                self._check(number, reply)
                return reply
            reason = "another program listens on this port"
        if number in self.missing:
            self.missing[number] = reason
        return None

    def _check(self, number: int, reply: dict[str, Any]) -> None:
        """Refuse a worker of another cluster or with another subject.

        Raises:
            UsageError: the message names the difference.
        """
        name = self.cluster.name(number)
        if reply.get("addresses") != list(self.cluster.addresses) or reply.get("index") != number:
            raise UsageError(f"{name} has a TF_CONFIG with another cluster or task.index", hint=_SAME)
        if number == self.cluster.index and reply.get("token") != self._token:
            raise UsageError(f"TF_CONFIG: task.index is {number}, but {name} is another process", hint=_SAME)
        if reply.get("subject") != self.subject:
            raise UsageError(
                f"{name} was started with another recipe, other settings or another version of kd",
                hint=_SAME,
            )

    def _message(self, *, ready: bool = False) -> bytes:
        with self._lock:
            all_ready = len(self._ready) == len(self.cluster.addresses) - 1 and not self.missing
        message = {
            "index": self.cluster.index,
            "addresses": self.cluster.addresses,
            "subject": self.subject,
            "token": self._token,
            "ready": ready,
            "all": all_ready and self.cluster.index == 0,
        }
        return json.dumps(message).encode() + b"\n"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(REPLY_SECONDS)
                try:
                    self._reply(connection)
                except OSError:
                    # The other worker has disconnected; it will try again.
                    continue

    def _reply(self, connection: socket.socket) -> None:
        query = _read(connection)
        if query is None:
            return
        number = query["index"]
        known = number in range(len(self.cluster.addresses))
        if known:
            try:
                self._check(number, query)
            except UsageError as fault:
                # The other worker may end before it is queried in turn.
                self._fault = fault
        ready = known and query.get("ready") is True and self._fault is None
        if ready:
            with self._lock:
                self._ready.add(number)
        message = self._message()
        connection.sendall(message)
        if ready and json.loads(message)["all"]:
            with self._lock:
                self._informed.add(number)

    def _absence_error(self, seconds: float) -> TrainingError:
        texts = [f"{self.cluster.name(number)}: {reason}" for number, reason in self.missing.items()]
        if not texts and self.cluster.index == 0:
            late = sorted({*range(1, len(self.cluster.addresses))} - self._informed)
            texts = [f"{self.cluster.name(number)}: it cannot reach all others" for number in late]
        if not texts:
            texts = [f"{self.cluster.name(0)}: it reports that not all workers have joined"]
        return TrainingError(
            f"the workers did not find each other within {seconds:g} s; missing: {'; '.join(texts)}",
            hint="start the same command on each worker, each with its own task.index; "
            f"{TIMEOUT_VARIABLE}=600 waits longer",
        )


def _read(connection: socket.socket) -> dict[str, Any] | None:
    """Read the other side's line; None if it is not a message of this protocol."""
    content = b""
    while not content.endswith(b"\n") and len(content) < 1_000_000:
        part = connection.recv(65536)
        if not part:
            break
        content += part
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and _is_ours(values) else None


def _is_ours(values: dict[str, Any]) -> bool:
    # Compares the type, because 1.0 and True equal 1.
    texts = all(isinstance(values.get(name), str) for name in ("subject", "token"))
    return texts and type(values.get("index")) is int and isinstance(values.get("addresses"), list)
