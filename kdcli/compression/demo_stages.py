"""The stages of kd demo."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kdcli.errors import Interrupted, UsageError
from kdcli.events import Note, OnEvent
from kdcli.extras import require_extra
from kdcli.runs.directory import choose_run_folder


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
            interrupted.hint = "kd demo --out ANOTHER_FOLDER"
            raise
        self.seconds[name] = round(time.perf_counter() - since, 1)

    def total_seconds(self) -> dict[str, float]:
        """Seconds by stage, and `total`."""
        return {**self.seconds, "total": round(sum(self.seconds.values()), 1)}
