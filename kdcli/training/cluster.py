"""Who works together: `TF_CONFIG`, read before TensorFlow is, with every fault of it in one line."""

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
    """All workers, and which of them this process is.

    Args:
        addresses: `host:port` of each; the first one is the chief.
        index: of this process among them.
    """

    addresses: tuple[str, ...] = ("",)
    index: int = 0

    def name(self, index: int) -> str:
        """What messages call a worker."""
        return f"{'the chief' if index == 0 else f'worker {index}'} ({self.addresses[index]})"


def read_cluster(text: str | None) -> Cluster:
    """The cluster that `TF_CONFIG` describes.

    Args:
        text: the variable's value, None when it is not set.

    Raises:
        UsageError: naming what is wrong with it.
    """
    if not text or not text.strip():
        raise UsageError(f"train.devices is workers, but {TF_CONFIG} is not set", hint=EXAMPLE_CONFIG)
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _fault(f"not JSON: {error}") from None
    except RecursionError:
        raise _fault("not JSON that can be read: nested too deeply") from None
    if not isinstance(values, dict):
        raise _fault(f"must be a mapping with cluster and task (got {_said(values)})")
    jobs = _jobs(values.get("cluster"))
    job, index = _task(values.get("task"), jobs)
    addresses = (*jobs.get("chief", ()), *jobs.get("worker", ()))
    twice = sorted({address for address in addresses if addresses.count(address) > 1})
    if twice:
        raise _fault(f"cluster: {twice[0]} stands there twice")
    return Cluster(addresses, index + (len(jobs.get("chief", ())) if job == "worker" else 0))


def _jobs(cluster: Any) -> dict[str, list[str]]:
    if not isinstance(cluster, dict) or not cluster:
        raise _fault(f"cluster must name the addresses of all workers (got {_said(cluster)})")
    for job, addresses in cluster.items():
        if job not in ("chief", "worker"):
            raise _not_ours("cluster", job)
        if not isinstance(addresses, list) or not addresses:
            raise _fault(f"cluster.{job} must be a list of host:port (got {_said(addresses)})")
        for number, address in enumerate(addresses):
            _check_address(f"cluster.{job}[{number}]", address)
    if len(cluster.get("chief", [])) > 1:
        raise _fault(f"cluster.chief must be one address (got {len(cluster['chief'])})")
    return cluster


def _check_address(where: str, address: Any) -> None:
    host, _, port = str(address).rpartition(":")
    if not isinstance(address, str) or not host or not port.isascii() or not port.isdigit():
        raise _fault(f"{where} must be host:port (got {_said(address)})")
    # Python refuses to read thousands of digits.
    if len(port) > 20 or not 0 < int(port) < 65536:
        raise _fault(f"{where}: a port lies between 1 and 65535 (got {port:.80})")
    try:
        # What Python does before it looks the name up.
        named = b"\0" not in host.strip("[]").encode("idna")
    except UnicodeError:
        named = False
    if not named:
        raise _fault(f"{where}: no name of a host (got {_said(host)})")


def _task(task: Any, jobs: Mapping[str, list[str]]) -> tuple[str, int]:
    if not isinstance(task, dict):
        raise _fault(f"task must have a type and an index (got {_said(task)})")
    job, index = task.get("type"), task.get("index")
    if job not in ("chief", "worker"):
        raise _not_ours("task.type", job)
    if job not in jobs:
        raise _fault(f"task.type is {job}, and the cluster has none")
    # Launchers that fill in a template write the number as a text.
    if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 20:
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool):
        raise _fault(f"task.index must be a number (got {_said(index)})")
    if not 0 <= index < len(jobs[job]):
        raise _fault(
            f"task.index is {_said(index)}, and cluster.{job} has {len(jobs[job])} (0 to {len(jobs[job]) - 1})"
        )
    return job, index


def _not_ours(where: str, job: Any) -> UsageError:
    why = ""
    if job == "evaluator":
        why = "; the chief validates, and kd evaluate measures"
    elif job == "ps":
        why = "; kd has no parameter servers"
    return _fault(f"{where}: chief and worker are known (got {_said(job)}){why}")


def _fault(message: str) -> UsageError:
    return UsageError(f"{TF_CONFIG}: {message}", hint=EXAMPLE_CONFIG)


def _said(value: Any) -> str:
    try:
        return "nothing" if value is None else f"{json.dumps(value):.80}"
    except RecursionError:
        return "something nested too deeply"
