"""The stages of the demonstration, and its models as lines of a table."""

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
    """The stages of the demonstration, each announced and timed.

    Args:
        path: the folder of all of them.
        on_event: receives the command that each stage stands for.
        seconds: that each stage took.
    """

    path: Path
    on_event: OnEvent
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, out: str | Path | None, recipe: str, on_event: OnEvent) -> DemoStages:
        """Stages in a new or empty folder.

        Raises:
            UsageError: the folder is not empty.
            ModelError: the LiteRT extra is not installed.
        """
        require_extra("litert", subject="kd demo, which exports for LiteRT,")
        path = Path(out) if out is not None else choose_run_folder("demo", recipe)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            what = "is not empty" if path.is_dir() else "is a file, not a folder"
            raise UsageError(f"--out {path} {what}", hint="another --out")
        return cls(path, on_event)

    @contextmanager
    def run(self, name: str, command: str) -> Iterator[None]:
        """Announce a stage by its command, and time the block."""
        self.on_event(Note(f"$ kd {command}"))
        since = time.perf_counter()
        try:
            yield
        except Interrupted as interrupted:
            interrupted.hint = "kd demo with another --out starts anew"
            raise
        self.seconds[name] = round(time.perf_counter() - since, 1)

    def total_seconds(self) -> dict[str, float]:
        """Seconds by stage, with `total`."""
        return {**self.seconds, "total": round(sum(self.seconds.values()), 1)}


def list_demo_models(
    path: Path, compared: dict[str, Any], exported: ExportResult
) -> tuple[DemonstratedModel, ...]:
    """The lines of the table: teacher, student alone, student distilled, and the files that ship."""
    teacher, (scratch, distilled) = compared["teacher"], compared["students"]
    whole = teacher["bytes"]
    rows = []
    for name, entry, accuracy, file in (
        ("teacher", teacher, teacher["accuracy"], path / "teacher" / "teacher.keras"),
        ("student alone, mean of 3", scratch, scratch["accuracy"]["mean"], _first(scratch)),
        ("student distilled, mean of 3", distilled, distilled["accuracy"]["mean"], _first(distilled)),
    ):
        timed, size = entry["latency"], entry["bytes"]
        metrics = (accuracy, entry["parameters"], size, whole / size, timed["p50_ms"])
        rows.append(DemonstratedModel(name, file, timed["runtime"], *metrics))
    for one in exported.artifacts:
        if one.path is not None and one.accuracy is not None:
            metrics = (one.accuracy, distilled["parameters"], one.bytes, whole / one.bytes, one.p50_ms)
            rows.append(DemonstratedModel(f"{one.path.name}, seed 0", one.path, "litert", *metrics))
    return tuple(rows)


def _first(student: dict[str, Any]) -> Path:
    return Path(student["accuracy"]["runs"][0]["model"])
