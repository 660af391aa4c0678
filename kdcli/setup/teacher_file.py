"""The teacher as a file of the same format as a student's, so that their times compare like with like."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcli.cache.exported_models import export_path, store_export
from kdcli.cache.folder import find_cache_folder
from kdcli.errors import ModelError
from kdcli.evaluation.latency.subjects import SubjectFactory, make_runner_factory
from kdcli.events import Note, OnEvent
from kdcli.extras import require_extra
from kdcli.models.batching import Runner
from kdcli.models.inference import copy_network, prepare_for_export
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.keras.served_model import ServedModel, make_served_model
from kdcli.models.network import Network
from kdcli.runs import writer
from kdcli.runs.records import collect_versions
from kdcli.spec import ExportFormat


@dataclass(frozen=True)
class TeacherFile:
    """A teacher that was exported, opened in its own runtime.

    Args:
        serving: what was written.
        runner: runs it.
    """

    serving: ServedModel
    runner: Runner

    def at_batch(self, raw: Mapping[str, np.ndarray]) -> SubjectFactory:
        """How it is timed, on raw examples."""
        return make_runner_factory(self.runner, [self.serving.convert_examples(raw)])


def open_teacher_file(
    network: Network,
    chosen: ExportFormat,
    *,
    inside: bool,
    sha256: str | None,
    threads: int | None,
    opened: ExitStack,
    on_event: OnEvent,
) -> TeacherFile:
    """Export a teacher in float32 and open the file; the cache keeps it where the teacher's file is known.

    Args:
        network: the teacher behind its preprocessing.
        chosen: the format, without quantization.
        inside: whether the preprocessing is part of the file, as it is of the student's.
        sha256: of the teacher's own file; None is an object.
        threads: of the runtime.
        opened: closes the file's runtime, and removes what the cache does not hold.
        on_event: told of the conversion.

    Raises:
        ModelError: this teacher cannot be exported, or its runtime refuses the file.
    """
    if chosen.extra is not None:
        require_extra(chosen.extra, subject=f"the teacher as a {chosen.kind} file")
    serving = make_served_model(network, include_preprocessing=inside, batch=network.batch)
    known = {
        "teacher": sha256,
        "format": chosen.kind,
        "inside": inside,
        "preprocessing": str(serving.preprocessing),
        **network.reading,
        "versions": str(collect_versions()),
    }
    folder = find_cache_folder()
    path = export_path(folder, known, chosen.suffix)
    if sha256 is not None and path.is_file():
        try:
            return TeacherFile(serving, _open(chosen, path, threads, opened))
        except ModelError:
            # Damaged: it is made again.
            pass
    on_event(Note(f"{network.name}: exporting to {chosen.kind}, to be timed beside files of that format"))
    scratch = opened.enter_context(writer.scratch_folder(50_000_000 + 12 * (network.parameters or 0)))
    made = scratch / f"teacher{chosen.suffix}"
    # The teacher itself stays as it is: it is measured too.
    network = prepare_for_export(
        copy_network(network) if isinstance(network, KerasNetwork) else network, network.saved_kind
    )
    serving = _written(network, chosen, made, inside=inside)
    if sha256 is not None and made.is_file():
        made = store_export(folder, path, made)
    return TeacherFile(serving, _open(chosen, made, threads, opened))


def _written(network: Network, chosen: ExportFormat, path: Path, *, inside: bool) -> ServedModel:
    serving = make_served_model(network, include_preprocessing=inside, batch=network.batch)
    try:
        chosen.write(serving, path)
    except ModelError:
        if network.batch is not None:
            raise
        # Recurrent layers convert for one batch size only.
        serving = make_served_model(network, include_preprocessing=inside, batch=1)
        chosen.write(serving, path)
    return serving


def _open(chosen: ExportFormat, path: Path, threads: int | None, opened: ExitStack) -> Runner:
    runner: Runner = chosen.open(path, threads=threads)
    opened.callback(runner.close)
    return runner
