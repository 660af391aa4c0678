"""A worker that dies between the rendezvous and TensorFlow's start: the others report it and end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from test_rendezvous import free_addresses

SECONDS = 4

# Joins the rendezvous, and dies where TensorFlow would start.
VICTIM = """
import os, sys
from kdcli.training.cluster import Cluster
from kdcli.training.rendezvous import Rendezvous
with Rendezvous(Cluster(tuple(sys.argv[2:]), int(sys.argv[1])), subject="work") as meeting:
    meeting.wait(60, stop=lambda: None)
os._exit(0)
"""

# Joins as a command does, with its error handling.
SURVIVOR = """
import sys
from pathlib import Path
from kdcli.errors import KdError
from kdcli.training.cluster import Cluster
from kdcli.training.workers import Workers
workers = Workers(Cluster(tuple(sys.argv[2:]), int(sys.argv[1])))
try:
    with workers.report_lost_worker(Path("run"), newest=lambda: None):
        workers.join(subject="work", stop=lambda: None, on_event=lambda event: None)
except KdError as error:
    print(error.message)
    sys.exit(error.exit_code)
"""


def start(script: str, addresses: tuple[str, ...], index: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(index), *addresses],
        env={**os.environ, "KD_WORKERS_TIMEOUT": "60" if script == VICTIM else str(SECONDS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.serial
@pytest.mark.parametrize(
    ("count", "victim", "name"),
    [(2, 1, "worker 1"), (2, 0, "the chief"), pytest.param(3, 2, "worker 2", marks=pytest.mark.slow)],
)
def test_other_workers_name_the_lost_one_and_end_in_bounded_time(count, victim, name):
    addresses = free_addresses(count)
    started = [start(VICTIM if index == victim else SURVIVOR, addresses, index) for index in range(count)]
    try:
        answers = [one.communicate(timeout=60) for one in started]
    finally:
        for one in started:
            one.kill()
    for index, (one, (said, complaint)) in enumerate(zip(started, answers, strict=True)):
        if index == victim:
            assert one.returncode == 0, complaint
            continue
        assert one.returncode == 6, complaint
        assert said == (
            f"{name} ({addresses[victim]}) joined the others, but did not start within {SECONDS} s: "
            "it was killed, is unreachable, or ended with an error of its own\n"
        )
        assert "Traceback" not in complaint and "Thread 0x" not in complaint
