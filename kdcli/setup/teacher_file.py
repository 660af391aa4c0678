"""The teacher exported to the format of a student, so that both are timed in the same runtime."""

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
from kdcli.runs.run_environment import collect_versions
from kdcli.spec import ExportFormat


@dataclass(frozen=True)
class TeacherFile:
    """An exported teacher, opened in its runtime.

    Args:
        path: of the file.
        serving: the model that was exported.
        runner: runs the file.
    """

    path: Path
    serving: ServedModel
    runner: Runner

    def at_batch(self, raw: Mapping[str, np.ndarray]) -> SubjectFactory:
        """Return the factory of timed subjects, on raw examples."""
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
    """Export a teacher in float32 and open the file; it is cached if the teacher has a file.

    Args:
        network: the teacher behind its preprocessing.
        chosen: the format, without quantization.
        inside: whether the preprocessing is part of the file, as in the student's.
        sha256: hash of the teacher's file; None for an object, which is not cached.
        threads: number of threads of the runtime.
        opened: closes the runtime, and removes a file that is not cached.
        on_event: receives a note on the conversion.

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
            return TeacherFile(path, serving, _open_runner(chosen, path, threads, opened))
        except ModelError:
            # The cached file is damaged: export it again.
            pass
    on_event(Note(f"{network.name}: exporting to {chosen.kind}, to time it like the {chosen.kind} files"))
    scratch = opened.enter_context(writer.scratch_folder(50_000_000 + 12 * (network.parameters or 0)))
    exported = scratch / f"teacher{chosen.suffix}"
    # A copy is exported: the teacher itself is measured too.
    network = prepare_for_export(
        copy_network(network) if isinstance(network, KerasNetwork) else network, network.saved_kind
    )
    serving = _write_file(network, chosen, exported, inside=inside)
    if sha256 is not None and exported.is_file():
        exported = store_export(folder, path, exported)
    return TeacherFile(exported, serving, _open_runner(chosen, exported, threads, opened))


def _write_file(network: Network, chosen: ExportFormat, path: Path, *, inside: bool) -> ServedModel:
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


def _open_runner(chosen: ExportFormat, path: Path, threads: int | None, opened: ExitStack) -> Runner:
    runner: Runner = chosen.open(path, threads=threads)
    opened.callback(runner.close)
    return runner
