"""Several processes on one run: who joins, for what, and what happens when one of them is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kdcli import __version__
from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent
from kdcli.models.custom_code import attribute_errors
from kdcli.runs.directory import CHECKPOINT_FOLDER
from kdcli.setup.context import Context
from kdcli.setup.request import Request
from kdcli.setup.run_location import RunLocation
from kdcli.setup.startup import start_tensorflow
from kdcli.training.checkpoint import list_checkpoints
from kdcli.training.cluster import TF_CONFIG, read_cluster
from kdcli.training.replicas import SINGLE_WORKER, Workers


@contextmanager
def worker_group(location: RunLocation, *, out: Any, on_event: OnEvent) -> Iterator[Workers]:
    """Who this process works with; while the block runs, the loss of one of them is said as such.

    Raises:
        UsageError: what is wrong with `TF_CONFIG`, or with the user's own files.
        WorkerLostError: naming the worker, the last checkpoint and the run.
    """
    workers = find_workers(location.request.recipe.train.devices, out=out, on_event=on_event)

    def newest() -> Path | None:
        return next(reversed(list_checkpoints(location.path / CHECKPOINT_FOLDER)), None)

    with attribute_errors(location.request.code), workers.report_lost_worker(location.path, newest=newest):
        yield workers


def find_workers(devices: str, *, out: Any, on_event: OnEvent) -> Workers:
    """Who this process works with: alone, or one of those that `TF_CONFIG` names, when `devices` is `workers`.

    Raises:
        UsageError: what is wrong with `TF_CONFIG`, or no common run directory.
    """
    text = os.environ.get(TF_CONFIG)
    if devices != "workers":
        if text:
            on_event(Note(f"{TF_CONFIG} is set but not used: --devices workers asks for it"))
        return SINGLE_WORKER
    cluster = read_cluster(text)
    if out is None:
        raise UsageError(
            "workers need one run directory that all of them see",
            hint="--out DIR on a file system that they share",
        )
    return Workers(cluster)


def start_workers(request: Request, context: Context) -> None:
    """Start TensorFlow, as one of the workers where there are several.

    Raises:
        UsageError: threads or code that cannot be, or a worker that came for something else.
        TrainingError: a worker that did not come.
    """
    subject = json.dumps([__version__, _without_paths(request.recipe.model_dump(mode="json", by_alias=True))])
    join = partial(context.workers.join, subject=subject, stop=context.stop, on_event=context.on_event)
    start_tensorflow(threads=context.threads, seed=request.recipe.train.seed, code=request.code, join=join)


def _without_paths(values: Any) -> Any:
    """Settings without where the files lie: that may differ from machine to machine."""
    if isinstance(values, dict):
        return {name: _without_paths(value) for name, value in values.items() if name != "path"}
    return [_without_paths(value) for value in values] if isinstance(values, list) else values
