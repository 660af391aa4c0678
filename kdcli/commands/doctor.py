"""kd doctor: report the installation, the devices and missing extras."""

from __future__ import annotations

import os

import psutil

from kdcli.lazy import tf
from kdcli.runs.doctor_report import EnvironmentReport
from kdcli.runs.run_environment import describe_machine
from kdcli.setup.installation import find_caches, find_devices, find_extras, find_versions


def doctor() -> EnvironmentReport:
    """Report versions, devices, memory, caches and extras; changes nothing."""
    devices, findings = find_devices()
    memory = psutil.virtual_memory()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return EnvironmentReport(
        versions=find_versions(),
        system=describe_machine(),
        devices=devices,
        threads=None if findings else tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
        cores={"logical": os.cpu_count(), "physical": psutil.cpu_count(logical=False), "usable": usable},
        memory_bytes={"total": memory.total, "available": memory.available},
        caches=find_caches(),
        offline=bool(os.environ.get("KD_OFFLINE")),
        extras=find_extras(),
        findings=findings,
    )
