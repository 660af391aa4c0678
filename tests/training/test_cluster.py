"""TF_CONFIG: the cluster, and a one-line message for every fault."""

from __future__ import annotations

import json

import pytest

from kdcli.errors import UsageError
from kdcli.training.cluster import EXAMPLE_CONFIG, Cluster, read_cluster

TWO = ["a:1", "b:2"]


def config(cluster=None, **task) -> str:
    return json.dumps({"cluster": cluster or {"worker": TWO}, "task": {"type": "worker", "index": 0, **task}})


@pytest.mark.parametrize(
    ("text", "addresses", "index"),
    [
        (config(), TWO, 0),
        (config(index=1), TWO, 1),
        (config(index="1"), TWO, 1),
        (config({"chief": ["c:3"], "worker": TWO}, index=1), ["c:3", *TWO], 2),
        (config({"chief": ["c:3"], "worker": TWO}, type="chief"), ["c:3", *TWO], 0),
        (config({"worker": ["[::1]:2222", "host.name:65535"]}), ["[::1]:2222", "host.name:65535"], 0),
        (json.dumps({**json.loads(config()), "environment": "cloud"}), TWO, 0),
    ],
)
def test_cluster_is_read_with_the_chief_first(text, addresses, index):
    assert read_cluster(text) == Cluster(tuple(addresses), index)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "train.devices is workers, but TF_CONFIG is not set"),
        ("  ", "train.devices is workers, but TF_CONFIG is not set"),
        ("{worker}", "TF_CONFIG: not JSON: Expecting property name enclosed in double quotes"),
        ("[]", "TF_CONFIG: must be a mapping with cluster and task (got [])"),
        ('{"task": {}}', "TF_CONFIG: cluster must name the addresses of all workers (got nothing)"),
        ('{"cluster": {}}', "TF_CONFIG: cluster must name the addresses of all workers (got {})"),
        ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG: task must have a type and an index (got nothing)"),
        (config({"worker": []}), "TF_CONFIG: cluster.worker must be a list of host:port (got [])"),
        (config({"worker": "a:1"}), 'TF_CONFIG: cluster.worker must be a list of host:port (got "a:1")'),
        (config({"worker": ["a:1", "b"]}), 'TF_CONFIG: cluster.worker[1] must be host:port (got "b")'),
        (config({"worker": [":1"]}), 'TF_CONFIG: cluster.worker[0] must be host:port (got ":1")'),
        (config({"worker": ["a:x"]}), 'TF_CONFIG: cluster.worker[0] must be host:port (got "a:x")'),
        (config({"worker": [7]}), "TF_CONFIG: cluster.worker[0] must be host:port (got 7)"),
        (
            config({"worker": ["a:0"]}),
            "TF_CONFIG: cluster.worker[0]: the port must be between 1 and 65535 (got 0)",
        ),
        (
            config({"worker": ["a:65536"]}),
            "TF_CONFIG: cluster.worker[0]: the port must be between 1 and 65535 (got 65536)",
        ),
        (
            config({"worker": ["a:" + "9" * 5000]}),
            "TF_CONFIG: cluster.worker[0]: the port must be between 1 and 65535",
        ),
        (config({"worker": ["a..b:1"]}), 'TF_CONFIG: cluster.worker[0]: not a host name (got "a..b")'),
        (config({"worker": ["a:1", f"{'x' * 70}:1"]}), "TF_CONFIG: cluster.worker[1]: not a host name (got"),
        (config({"worker": ["a\0b:1"]}), "TF_CONFIG: cluster.worker[0]: not a host name (got"),
        (config({"worker": ["\ud800:1"]}), "TF_CONFIG: cluster.worker[0]: not a host name (got"),
        (config({"worker": ["a:1", "b:1", "a:1"]}), "TF_CONFIG: cluster: a:1 is listed twice"),
        (config({"chief": ["a:1"], "worker": ["a:1"]}), "TF_CONFIG: cluster: a:1 is listed twice"),
        (config({"chief": TWO, "worker": ["c:1"]}), "TF_CONFIG: cluster.chief must be one address (got 2)"),
        (
            config({"worker": TWO, "ps": ["c:1"]}),
            'TF_CONFIG: cluster must be chief or worker (got "ps"); kd has no parameter servers',
        ),
        (
            config(type="evaluator"),
            'TF_CONFIG: task.type must be chief or worker (got "evaluator"); the chief validates, and kd '
            "evaluate evaluates",
        ),
        (config(type="master"), 'TF_CONFIG: task.type must be chief or worker (got "master")'),
        (config(type=None), "TF_CONFIG: task.type must be chief or worker (got nothing)"),
        (config(type="chief"), "TF_CONFIG: task.type is chief, but the cluster has no chief"),
        (config(index=None), "TF_CONFIG: task.index must be a number (got nothing)"),
        (config(index=1.5), "TF_CONFIG: task.index must be a number (got 1.5)"),
        (config(index=True), "TF_CONFIG: task.index must be a number (got true)"),
        (config(index=2), "TF_CONFIG: task.index must be 0 to 1 for cluster.worker (got 2)"),
        (config(index="9" * 5000), 'TF_CONFIG: task.index must be a number (got "999'),
        (config(index=10**4000), "TF_CONFIG: task.index must be 0 to 1 for cluster.worker (got 1000"),
        ("[" * 200_000, "TF_CONFIG: JSON nested too deeply"),
        (config(index=-1), "TF_CONFIG: task.index must be 0 to 1 for cluster.worker (got -1)"),
    ],
)
def test_every_fault_has_a_one_line_message(text, message):
    with pytest.raises(UsageError) as caught:
        read_cluster(text)
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200
    assert caught.value.hint == EXAMPLE_CONFIG
    json.loads(EXAMPLE_CONFIG.removeprefix("TF_CONFIG='").removesuffix("'"))


@pytest.mark.parametrize("depth", range(880, 1000, 5))
def test_nesting_near_the_parser_limit_is_refused(depth):
    with pytest.raises(UsageError):
        read_cluster("[" * depth + "]" * depth)


def test_first_worker_is_called_the_chief():
    cluster = read_cluster(config())
    assert [cluster.name(0), cluster.name(1)] == ["the chief (a:1)", "worker 1 (b:2)"]
