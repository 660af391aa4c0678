"""The stages of kd demo, and the rows of its table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcli.errors import Interrupted, UsageError
from kdcli.events import Note, OnEvent
from kdcli.extras import require_extra
from kdcli.runs.demo_results import DemonstratedModel
from kdcli.runs.directory import choose_run_folder
from kdcli.runs.export_results import ExportResult


@dataclass(frozen=True)
class DemoStages:
    """The stages of kd demo, each announced and timed.

    Args:
        path: folder of all stages.
        on_event: receives the command of each stage.
        seconds: duration of each stage.
    """

    path: Path
    on_event: OnEvent
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, out: str | Path | None, recipe: str, on_event: OnEvent) -> DemoStages:
        """Prepare the stages for a new or empty folder.

        Args:
            out: the folder; a new one below `runs/` if None.
            recipe: recipe of all stages, for the name of a new folder.
            on_event: receives the command of each stage.

        Raises:
            UsageError: the folder is not empty.
            ModelError: the LiteRT extra is not installed.
        """
        require_extra("litert", subject="kd demo")
        path = Path(out) if out is not None else choose_run_folder("demo", recipe)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            problem = "is not empty" if path.is_dir() else "is a file, not a folder"
            raise UsageError(f"--out {path} {problem}", hint="choose another --out")
        return cls(path, on_event)

    @contextmanager
    def run(self, name: str, command: str) -> Iterator[None]:
        """Announce a stage with its command, and time the block."""
        self.on_event(Note(f"$ kd {command}"))
        since = time.perf_counter()
        try:
            yield
        except Interrupted as interrupted:
            interrupted.hint = "start again: kd demo with another --out"
            raise
        self.seconds[name] = round(time.perf_counter() - since, 1)

    def total_seconds(self) -> dict[str, float]:
        """Seconds by stage, and `total`."""
        return {**self.seconds, "total": round(sum(self.seconds.values()), 1)}


def list_demo_models(
    path: Path, compared: dict[str, Any], exported: ExportResult
) -> tuple[DemonstratedModel, ...]:
    """The rows of the table: teacher, baseline, distilled student, and exported files."""
    teacher, (scratch, distilled) = compared["teacher"], compared["students"]
    teacher_bytes = teacher["bytes"]
    rows = []
    for name, entry, accuracy, file in (
        ("teacher", teacher, teacher["accuracy"], path / "teacher" / "teacher.keras"),
        ("student baseline, mean of 3", scratch, scratch["accuracy"]["mean"], _find_first_model(scratch)),
        ("student distilled, mean of 3", distilled, distilled["accuracy"]["mean"], _find_first_model(distilled)),
    ):
        latency, size = entry["latency"], entry["bytes"]
        metrics = (accuracy, entry["parameters"], size, teacher_bytes / size, latency["p50_ms"])
        rows.append(DemonstratedModel(name, file, latency["runtime"], *metrics))
    for one in exported.artifacts:
        if one.path is not None and one.accuracy is not None:
            metrics = (one.accuracy, distilled["parameters"], one.bytes, teacher_bytes / one.bytes, one.p50_ms)
            rows.append(DemonstratedModel(f"{one.path.name}, seed 0", one.path, "litert", *metrics))
    return tuple(rows)


def _find_first_model(student: dict[str, Any]) -> Path:
    return Path(student["accuracy"]["runs"][0]["model"])
