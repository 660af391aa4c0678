"""The worker processes of a run: who joins, and what happens when one is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kdcli import __version__
from kdcli.errors import UsageError
from kdcli.events import Note
from kdcli.models.custom_code import attribute_errors
from kdcli.runs.directory import CHECKPOINT_FOLDER
from kdcli.setup.request import Request
from kdcli.setup.run_location import RunLocation
from kdcli.setup.startup import start_tensorflow
from kdcli.training.checkpoint import list_checkpoints
from kdcli.training.cluster import TF_CONFIG, read_cluster
from kdcli.training.workers import SINGLE_WORKER, Workers


@contextmanager
def join_run(location: RunLocation) -> Iterator[RunLocation]:
    """Yield the location with its workers; while the block runs, the loss of a worker is reported.

    Raises:
        UsageError: `TF_CONFIG` or the user's code is wrong.
        WorkerLostError: naming the worker, the last checkpoint and the run.
    """
    request = location.request
    workers = find_workers(request)

    def newest() -> Path | None:
        return next(reversed(list_checkpoints(location.path / CHECKPOINT_FOLDER)), None)

    with attribute_errors(request.code), workers.report_lost_worker(location.path, newest=newest):
        yield replace(location, request=replace(request, context=replace(request.context, workers=workers)))


def find_workers(request: Request) -> Workers:
    """Return the workers that `TF_CONFIG` names if `train.devices` is `workers`, else this process alone.

    Raises:
        UsageError: `TF_CONFIG` is wrong, or the run directory is not named.
    """
    text = os.environ.get(TF_CONFIG)
    if request.recipe.train.devices != "workers":
        if text:
            request.context.on_event(Note(f"{TF_CONFIG} is set but not used: --devices workers uses it"))
        return SINGLE_WORKER
    cluster = read_cluster(text)
    if request.out is None:
        raise UsageError(
            "workers need a run directory that all of them can access",
            hint="--out DIR on a shared file system",
        )
    return Workers(cluster)


def start_workers(request: Request) -> None:
    """Start TensorFlow, as one of the workers where there are several.

    Raises:
        UsageError: threads or code that cannot be used, or a worker with a different task.
        TrainingError: a worker that did not join.
    """
    context = request.context
    subject = json.dumps([__version__, _without_paths(request.recipe.model_dump(mode="json", by_alias=True))])
    join = partial(context.workers.join, subject=subject, stop=context.stop, on_event=context.on_event)
    start_tensorflow(threads=context.threads, seed=request.recipe.train.seed, code=request.code, join=join)


def _without_paths(values: Any) -> Any:
    """The settings without file paths, which may differ between machines."""
    if isinstance(values, dict):
        return {name: _without_paths(value) for name, value in values.items() if name != "path"}
    return [_without_paths(value) for value in values] if isinstance(values, list) else values
