"""kd demo: a teacher and the file that it is compressed to, on the embedded digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.events import OnEvent, ignore_event
from kdcli.setup.context import never_stop

if TYPE_CHECKING:
    from kdcli.runs.demo_results import Demonstration

RECIPE = "digits"
# Targets that the digits can show: 360 test examples tell models apart that differ by about four points.
MAX_SIZE_MB, MAX_DROP = 0.02, 0.04


def demo(
    *,
    out: str | Path | None = None,
    threads: int | None = None,
    stop: Callable[[], int | None] = never_stop,
    on_event: OnEvent = ignore_event,
) -> Demonstration:
    """Train a teacher on embedded data and compress it to a target, offline: about a minute on two cores.

    Args:
        out: a folder for the teacher and the search; a new one below `runs/` by default.
        threads: number of threads TensorFlow uses; has an effect only before TensorFlow has started.
        stop: called between steps; an exit code stops the training.
        on_event: receives progress, and the command of each stage.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.demo(out="runs/demo").compression.model_path   # doctest: +SKIP
    """
    from kdcli.commands.compress import compress
    from kdcli.commands.train_teacher import train_teacher
    from kdcli.compression.demo_stages import DemoStages
    from kdcli.runs.compression_results import Compression
    from kdcli.runs.demo_results import Demonstration

    stages = DemoStages.start(out, RECIPE, on_event)
    teacher, small = stages.path / "teacher", stages.path / "small"
    with stages.run("teacher", f"train-teacher --recipe {RECIPE} --out {teacher}"):
        train_teacher(recipe=RECIPE, out=teacher, threads=threads, stop=stop, on_event=on_event)
    targets = f"--max-size-mb {MAX_SIZE_MB} --max-accuracy-drop {MAX_DROP}"
    with stages.run("compress", f"compress {teacher} --data digits {targets} --out {small}"):
        compression = compress(
            teacher,
            data="digits",
            max_size_mb=MAX_SIZE_MB,
            max_drop=MAX_DROP,
            metric="accuracy",
            out=small,
            threads=threads,
            stop=stop,
            on_event=on_event,
        )
    assert isinstance(compression, Compression)
    return Demonstration(stages.path, compression, stages.total_seconds())
