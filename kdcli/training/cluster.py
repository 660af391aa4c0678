"""The workers of a cluster: `TF_CONFIG`, validated before TensorFlow reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcli.errors import UsageError

TF_CONFIG = "TF_CONFIG"
EXAMPLE_CONFIG = (
    """TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, """
    """"task": {"type": "worker", "index": 0}}'"""
)


@dataclass(frozen=True)
class Cluster:
    """All workers, and the index of this process.

    Args:
        addresses: `host:port` of each worker; the first is the chief.
        index: index of this process.
    """

    addresses: tuple[str, ...] = ("",)
    index: int = 0

    def name(self, index: int) -> str:
        """The name of a worker in messages."""
        return f"{'the chief' if index == 0 else f'worker {index}'} ({self.addresses[index]})"


def read_cluster(text: str | None) -> Cluster:
    """Read the cluster from `TF_CONFIG`.

    Args:
        text: value of the variable; None if it is not set.

    Raises:
        UsageError: the value is not valid; the message says why.
    """
    if not text or not text.strip():
        raise UsageError(f"train.devices is workers, but {TF_CONFIG} is not set", hint=EXAMPLE_CONFIG)
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _config_error(f"not JSON: {error}") from None
    except RecursionError:
        raise _config_error("JSON nested too deeply") from None
    if not isinstance(values, dict):
        raise _config_error(f"must be a mapping with cluster and task (got {_quote(values)})")
    jobs = _read_jobs(values.get("cluster"))
    job, index = _read_task(values.get("task"), jobs)
    addresses = (*jobs.get("chief", ()), *jobs.get("worker", ()))
    duplicates = sorted({address for address in addresses if addresses.count(address) > 1})
    if duplicates:
        raise _config_error(f"cluster: {duplicates[0]} is listed twice")
    return Cluster(addresses, index + (len(jobs.get("chief", ())) if job == "worker" else 0))


def _read_jobs(cluster: Any) -> dict[str, list[str]]:
    if not isinstance(cluster, dict) or not cluster:
        raise _config_error(f"cluster must name the addresses of all workers (got {_quote(cluster)})")
    for job, addresses in cluster.items():
        if job not in ("chief", "worker"):
            raise _job_error("cluster", job)
        if not isinstance(addresses, list) or not addresses:
            raise _config_error(f"cluster.{job} must be a list of host:port (got {_quote(addresses)})")
        for number, address in enumerate(addresses):
            _check_address(f"cluster.{job}[{number}]", address)
    if len(cluster.get("chief", [])) > 1:
        raise _config_error(f"cluster.chief must be one address (got {len(cluster['chief'])})")
    return cluster


def _check_address(where: str, address: Any) -> None:
    host, _, port = str(address).rpartition(":")
    if not isinstance(address, str) or not host or not port.isascii() or not port.isdigit():
        raise _config_error(f"{where} must be host:port (got {_quote(address)})")
    # Python refuses to parse thousands of digits.
    if len(port) > 20 or not 0 < int(port) < 65536:
        raise _config_error(f"{where}: the port must be between 1 and 65535 (got {port:.80})")
    try:
        # Python encodes a name like this before it resolves it.
        valid = b"\0" not in host.strip("[]").encode("idna")
    except UnicodeError:
        valid = False
    if not valid:
        raise _config_error(f"{where}: not a host name (got {_quote(host)})")


def _read_task(task: Any, jobs: Mapping[str, list[str]]) -> tuple[str, int]:
    if not isinstance(task, dict):
        raise _config_error(f"task must have a type and an index (got {_quote(task)})")
    job, index = task.get("type"), task.get("index")
    if job not in ("chief", "worker"):
        raise _job_error("task.type", job)
    if job not in jobs:
        raise _config_error(f"task.type is {job}, but the cluster has no {job}")
    # Launchers that fill in a template write the number as a string.
    if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 20:
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool):
        raise _config_error(f"task.index must be a number (got {_quote(index)})")
    if not 0 <= index < len(jobs[job]):
        raise _config_error(
            f"task.index must be 0 to {len(jobs[job]) - 1} for cluster.{job} (got {_quote(index)})"
        )
    return job, index


def _job_error(where: str, job: Any) -> UsageError:
    why = ""
    if job == "evaluator":
        why = "; the chief validates, and kd evaluate evaluates"
    elif job == "ps":
        why = "; kd has no parameter servers"
    return _config_error(f"{where} must be chief or worker (got {_quote(job)}){why}")


def _config_error(message: str) -> UsageError:
    return UsageError(f"{TF_CONFIG}: {message}", hint=EXAMPLE_CONFIG)


def _quote(value: Any) -> str:
    try:
        return "nothing" if value is None else f"{json.dumps(value):.80}"
    except RecursionError:
        return "something nested too deeply"
