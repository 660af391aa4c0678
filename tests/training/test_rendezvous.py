"""The rendezvous before TensorFlow starts: all workers join, or all learn in bounded time which one is missing."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from kdcli.errors import Interrupted, KdError, TrainingError, UsageError
from kdcli.training import rendezvous
from kdcli.training.cluster import Cluster
from kdcli.training.rendezvous import Rendezvous, read_timeout_seconds


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(rendezvous, "PAUSE_SECONDS", 0.02)


def free_addresses(count: int) -> tuple[str, ...]:
    """Unused addresses of this machine."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    names = tuple(f"127.0.0.1:{server.getsockname()[1]}" for server in taken)
    for server in taken:
        server.close()
    return names


def meet(*places: tuple[tuple[str, ...], int, str], seconds: float = 5.0) -> list[KdError | None]:
    """Let workers meet, each in a thread; return the error that each of them ends with."""
    ended: list[KdError | None] = [None] * len(places)

    def come(place: int, addresses: tuple[str, ...], index: int, subject: str) -> None:
        try:
            with Rendezvous(Cluster(addresses, index), subject=subject) as one:
                one.wait(seconds, stop=lambda: None)
        except KdError as error:
            ended[place] = error

    threads = [threading.Thread(target=come, args=(place, *given)) for place, given in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return ended


@pytest.mark.serial
@pytest.mark.parametrize("count", [2, 5])
def test_all_workers_meet_and_free_their_ports(count):
    addresses = free_addresses(count)
    since = time.monotonic()
    assert meet(*((addresses, index, "work") for index in range(count))) == [None] * count
    assert time.monotonic() - since < 5
    for address in addresses:
        socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))).close()


@pytest.mark.serial
def test_missing_worker_is_named_to_all_others():
    addresses = free_addresses(3)
    since = time.monotonic()
    ended = meet((addresses, 0, "work"), (addresses, 2, "work"), seconds=0.5)
    assert time.monotonic() - since < 5
    for error in ended:
        assert isinstance(error, TrainingError)
        missing = f"worker 1 ({addresses[1]}): connection refused"
        assert error.message == f"the workers did not find each other within 0.5 s; missing: {missing}"
        assert "KD_WORKERS_TIMEOUT=600" in error.hint


def test_host_without_an_address_is_named():
    (own,) = free_addresses(1)
    (error,) = meet(((own, "no-such-host.invalid:2222"), 0, "work"), seconds=0.3)
    assert isinstance(error, TrainingError)
    assert "missing: worker 1 (no-such-host.invalid:2222): " in error.message


def test_other_program_on_a_port_is_not_a_worker():
    own, other = free_addresses(2)
    server = socket.create_server(("127.0.0.1", int(other.rpartition(":")[2])))

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    (error,) = meet(((own, other), 0, "work"), seconds=0.3)
    server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    server.close()
    assert isinstance(error, TrainingError)
    assert error.message.endswith(f"missing: worker 1 ({other}): another program listens on this port")


# A worker's message; one with missing or different fields is not from a worker.
MESSAGE = {"index": 1, "addresses": ["a:1"], "subject": "other work", "token": "0", "ready": True, "all": False}


@pytest.mark.parametrize(
    "said",
    [
        *(json.dumps({**MESSAGE, "index": index}) for index in (1.0, True, [1], {}, "1", None)),
        *(json.dumps({**MESSAGE, name: 1}) for name in ("addresses", "subject", "token")),
        *(json.dumps({**MESSAGE, "index": index}) for index in (-1, 2, 10**30)),
        '{"index": 1}',
        "[" * 200_000,
        f'{{"index": {"9" * 5000}}}',
        "GET / HTTP/1.1",
    ],
)
def test_stray_message_is_ignored(said):
    addresses = free_addresses(2)
    with Rendezvous(Cluster(addresses, 0), subject="work") as chief:
        with socket.create_connection(("127.0.0.1", int(addresses[0].rpartition(":")[2])), timeout=5) as stray:
            stray.sendall(said.encode() + b"\n")
            # Until it has been read, and answered or ignored.
            try:
                while stray.recv(65536):
                    pass
            except ConnectionResetError:
                pass
        other = threading.Thread(target=meet, args=((addresses, 1, "work"),))
        other.start()
        chief.wait(5, stop=lambda: None)
        other.join(10)
        assert chief._ready == {1}


def test_other_settings_are_refused_on_both_sides():
    addresses = free_addresses(2)
    ended = meet((addresses, 0, "work"), (addresses, 1, "other work"))
    assert all(isinstance(error, UsageError) for error in ended)
    assert {error.message for error in ended} == {
        f"{name} was started with another recipe, other settings or another version of kd"
        for name in (f"the chief ({addresses[0]})", f"worker 1 ({addresses[1]})")
    }


def test_another_list_of_workers_is_refused():
    first, second, third = free_addresses(3)
    ended = meet(((first, second), 0, "work"), ((first, second, third), 1, "work"), seconds=2)
    assert all(isinstance(error, UsageError) for error in ended)
    assert "has a TF_CONFIG with another cluster or task.index" in ended[0].message


def test_another_process_on_the_own_address_reveals_a_wrong_index():
    addresses = free_addresses(2)
    with Rendezvous(Cluster(addresses, 1), subject="work"):
        # As on another machine: the port is free here, and another process has the address of this index.
        lost = Rendezvous.__new__(Rendezvous)
        (spare,) = free_addresses(1)
        Rendezvous.__init__(lost, Cluster((addresses[0], spare), 1), subject="work")
        lost.cluster = Cluster(addresses, 1)
        with (
            lost,
            pytest.raises(UsageError, match=r"^TF_CONFIG: task.index is 1, but worker 1 .* another process"),
        ):
            lost.wait(2, stop=lambda: None)


def test_taken_port_is_named():
    (own, other) = free_addresses(2)
    port = int(own.rpartition(":")[2])
    with socket.create_server(("", port)):
        with pytest.raises(TrainingError, match=rf"^the chief \({own}\) cannot listen on port {port}: address"):
            Rendezvous(Cluster((own, other), 0), subject="work")


def test_waiting_ends_on_a_stop_request():
    addresses = free_addresses(2)
    with Rendezvous(Cluster(addresses, 0), subject="work") as one:
        with pytest.raises(Interrupted) as caught:
            one.wait(60, stop=lambda: 143)
    assert caught.value.exit_code == 143


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan", "", "86401", "1e10"])
def test_invalid_timeout_is_refused(monkeypatch, text):
    monkeypatch.setenv("KD_WORKERS_TIMEOUT", text)
    with pytest.raises(UsageError, match="KD_WORKERS_TIMEOUT must be a number of seconds"):
        read_timeout_seconds()


def test_timeout_is_five_minutes_or_the_variables_value(monkeypatch):
    monkeypatch.delenv("KD_WORKERS_TIMEOUT", raising=False)
    assert read_timeout_seconds() == 300
    monkeypatch.setenv("KD_WORKERS_TIMEOUT", "12.5")
    assert read_timeout_seconds() == 12.5
