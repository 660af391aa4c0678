"""Before TensorFlow waits for the other workers, which it does for an hour and without a word: do they all come?

Every worker listens on its own address and asks all others, in turn, who they are. When all have reached all, the
chief says so, and the addresses are free for TensorFlow.
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
# Between two rounds of asking, and for one answer.
PAUSE_SECONDS, ANSWER_SECONDS = 0.2, 2.0
LONGEST_SECONDS = 86_400
_SAME = "the same command and cluster for all; only task.index of TF_CONFIG differs"


def read_timeout_seconds() -> float:
    """How long workers wait for each other: `KD_WORKERS_TIMEOUT`, else five minutes.

    Raises:
        UsageError: it is no number of seconds, or more than a day.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "300")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_SECONDS:
        raise UsageError(
            f"{TIMEOUT_VARIABLE} must be seconds, above 0 and at most {LONGEST_SECONDS} (got {text[:80]!r})",
            hint=f"{TIMEOUT_VARIABLE}=600",
        )
    return seconds


class Rendezvous:
    """This worker's place at the meeting: it answers who asks, and asks the others.

    Args:
        cluster: who is expected.
        subject: what the work is; all must have come for the same.

    Raises:
        TrainingError: this worker's port is taken.
    """

    def __init__(self, cluster: Cluster, *, subject: str) -> None:
        self.cluster = cluster
        self.subject = subject
        # Oneself too: an index that is another worker's, or an address that others cannot use, shows here.
        self.missing = dict.fromkeys(range(len(cluster.addresses)), "it was not asked")
        self._token = secrets.token_hex(8)
        self._fault: UsageError | None = None
        # Known to the chief alone: who has reached everybody, and who has heard that all have.
        self._ready: set[int] = set()
        self._told: set[int] = set()
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
                hint="end what uses it, or another port in the TF_CONFIG of every worker",
            ) from None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # A thread that waits in accept is woken by this and not by close.
        try:
            self._server.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join(ANSWER_SECONDS)
        self._server.close()

    def wait(self, seconds: float, *, stop: Callable[[], int | None]) -> None:
        """Return when every worker has reached every other one.

        Raises:
            TrainingError: somebody did not come; with the addresses.
            UsageError: somebody came for something else.
            Interrupted: `stop` said so.
        """
        until = time.monotonic() + seconds
        while not self._all_met():
            code = stop()
            if code is not None:
                raise Interrupted("stopped while waiting for the other workers", exit_code=code)
            if time.monotonic() >= until:
                raise self._not_come(seconds)
            time.sleep(PAUSE_SECONDS)

    def _all_met(self) -> bool:
        if self._fault is not None:
            raise self._fault
        for number in list(self.missing):
            answer = self._ask(number)
            if answer is not None:
                del self.missing[number]
        if self.missing:
            return False
        if self.cluster.index == 0:
            with self._lock:
                return len(self._told) == len(self.cluster.addresses) - 1
        answer = self._ask(0, ready=True)
        return answer is not None and answer.get("all") is True

    def _ask(self, number: int, *, ready: bool = False) -> dict[str, Any] | None:
        """What a worker says of itself; None when it does not answer, with the reason in `missing`."""
        host, _, port = self.cluster.addresses[number].rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as connection:
                connection.sendall(self._said(ready=ready))
                answer = _read(connection)
        except OSError as error:
            reason = str(error.strerror or error).lower()
        else:
            if answer is not None:
                self._check(number, answer)
                return answer
            reason = "something else answers there"
        if number in self.missing:
            self.missing[number] = reason
        return None

    def _check(self, number: int, answer: dict[str, Any]) -> None:
        """Refuse who came for something else.

        Raises:
            UsageError: naming what differs.
        """
        name = self.cluster.name(number)
        if answer.get("addresses") != list(self.cluster.addresses) or answer.get("index") != number:
            raise UsageError(f"{name} has a TF_CONFIG with another cluster or task.index", hint=_SAME)
        if number == self.cluster.index and answer.get("token") != self._token:
            raise UsageError(f"TF_CONFIG: task.index is {number}, but {name} is another process", hint=_SAME)
        if answer.get("subject") != self.subject:
            raise UsageError(
                f"{name} was started with another recipe, other settings or another version of kd",
                hint=_SAME,
            )

    def _said(self, *, ready: bool = False) -> bytes:
        with self._lock:
            everybody = len(self._ready) == len(self.cluster.addresses) - 1 and not self.missing
        own = {
            "index": self.cluster.index,
            "addresses": self.cluster.addresses,
            "subject": self.subject,
            "token": self._token,
            "ready": ready,
            "all": everybody and self.cluster.index == 0,
        }
        return json.dumps(own).encode() + b"\n"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(ANSWER_SECONDS)
                try:
                    self._answer(connection)
                except OSError:
                    # Who asked has gone; it asks again.
                    continue

    def _answer(self, connection: socket.socket) -> None:
        asked = _read(connection)
        if asked is None:
            return
        number = asked["index"]
        known = number in range(len(self.cluster.addresses))
        if known:
            try:
                self._check(number, asked)
            except UsageError as fault:
                # Whoever asked may have gone before it is asked in turn.
                self._fault = fault
        ready = known and asked.get("ready") is True and self._fault is None
        if ready:
            with self._lock:
                self._ready.add(number)
        said = self._said()
        connection.sendall(said)
        if ready and json.loads(said)["all"]:
            with self._lock:
                self._told.add(number)

    def _not_come(self, seconds: float) -> TrainingError:
        texts = [f"{self.cluster.name(number)}: {reason}" for number, reason in self.missing.items()]
        if not texts and self.cluster.index == 0:
            late = sorted({*range(1, len(self.cluster.addresses))} - self._told)
            texts = [f"{self.cluster.name(number)}: it does not reach all others" for number in late]
        if not texts:
            texts = [f"{self.cluster.name(0)}: it says that not all workers have come"]
        return TrainingError(
            f"the workers did not come together in {seconds:g} s; missing: {'; '.join(texts)}",
            hint="the same command on each of them, each with its own task.index; "
            f"{TIMEOUT_VARIABLE}=600 waits longer",
        )


def _read(connection: socket.socket) -> dict[str, Any] | None:
    """The line that the other side sends; None when it is not one of ours."""
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
    # By its type: 1.0 and True would pass for 1.
    texts = all(isinstance(values.get(name), str) for name in ("subject", "token"))
    return texts and type(values.get("index")) is int and isinstance(values.get("addresses"), list)
