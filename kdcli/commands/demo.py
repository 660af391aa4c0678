"""kd demo: a teacher, students, their comparison and files that ship, on the embedded digits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.errors import Interrupted, UsageError
from kdcli.events import Note, OnEvent, ignore_event
from kdcli.setup.context import never_stop

if TYPE_CHECKING:
    from kdcli.runs.demo_results import DemonstratedModel, Demonstration
    from kdcli.runs.export_results import ExportResult

RECIPE = "digits"
SEEDS = (0, 1, 2)


def demo(
    *,
    out: str | Path | None = None,
    threads: int | None = None,
    stop: Callable[[], int | None] = never_stop,
    on_event: OnEvent = ignore_event,
) -> Demonstration:
    """The whole story, offline, in about a minute and a half on two cores, with the commands' own functions.

    Args:
        out: a folder for teacher, students, comparison and exports; a new one below `runs/` when left out.
        threads: of TensorFlow, before it has started.
        stop: asked between steps; an exit code stops.
        on_event: told of progress, and of the command that each stage stands for.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.demo(out="runs/demo").comparison["verdict"]   # doctest: +SKIP
    """
    from kdcli.commands.compare import compare
    from kdcli.commands.distill import distill
    from kdcli.commands.export import export
    from kdcli.commands.train_teacher import train_teacher
    from kdcli.extras import require_extra
    from kdcli.runs.demo_results import Demonstration
    from kdcli.runs.directory import choose_run_folder

    require_extra("litert", subject="kd demo, which exports for LiteRT,")
    path = Path(out) if out is not None else choose_run_folder("demo", RECIPE)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        what = "is not empty" if path.is_dir() else "is a file, not a folder"
        raise UsageError(f"--out {path} {what}", hint="another --out")
    context: dict[str, Any] = {"threads": threads, "stop": stop, "on_event": on_event}
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str, command: str) -> Iterator[None]:
        on_event(Note(f"$ kd {command}"))
        since = time.perf_counter()
        try:
            yield
        except Interrupted as interrupted:
            interrupted.hint = "kd demo with another --out starts anew"
            raise
        seconds[name] = round(time.perf_counter() - since, 1)

    teacher, students = path / "teacher", [path / f"student-{seed}" for seed in SEEDS]
    # The same split and views for all seeds, so that their twins share them.
    still = "data.seed=0"
    with stage("teacher", f"train-teacher --recipe {RECIPE} --out {teacher}"):
        train_teacher(recipe=RECIPE, out=teacher, **context)
    distilling = f"distill --recipe {RECIPE} --set {still} --teacher {teacher} --out {students[0]}"
    with stage("distill", f"{distilling}   (also --seed 1, 2)"):
        for seed, student in zip(SEEDS, students, strict=True):
            distill(recipe=RECIPE, settings=[still], teacher=teacher, seed=seed, out=student, **context)
    given = " ".join(f"--distilled {student}" for student in students)
    with stage("compare", f"compare {given} --out {path / 'compare'}"):
        compared = compare(distilled=students, out=path / "compare", **context)
    kinds = "--format litert --quantize none --quantize int8"
    with stage("export", f"export {students[0]} {kinds} --out {path / 'export'}"):
        exported = export(
            students[0],
            formats=["litert"],
            quantize=["none", "int8"],
            out=path / "export",
            threads=threads,
            on_event=on_event,
        )
    document = compared.to_json()
    distilled = document["students"][1]
    verdict = {name: distilled[name] for name in ("verdict", "gain", "gap_recovered", "mcnemar_p")}
    seconds["total"] = round(sum(seconds.values()), 1)
    return Demonstration(path, _models(path, document, exported), verdict, seconds)


def _models(path: Path, compared: dict[str, Any], exported: ExportResult) -> tuple[DemonstratedModel, ...]:
    """The lines of the table: teacher, student alone, student distilled, and the files that ship."""
    from kdcli.runs.demo_results import DemonstratedModel

    teacher, (scratch, distilled) = compared["teacher"], compared["students"]
    whole = teacher["bytes"]
    rows = []
    for name, entry, accuracy, file in (
        ("teacher", teacher, teacher["accuracy"], path / "teacher" / "teacher.keras"),
        ("student alone, mean of 3", scratch, scratch["accuracy"]["mean"], _first(scratch)),
        ("student distilled, mean of 3", distilled, distilled["accuracy"]["mean"], _first(distilled)),
    ):
        timed, size = entry["latency"], entry["bytes"]
        figures = (accuracy, entry["parameters"], size, whole / size, timed["p50_ms"])
        rows.append(DemonstratedModel(name, file, timed["runtime"], *figures))
    for one in exported.artifacts:
        if one.path is not None and one.accuracy is not None:
            figures = (one.accuracy, distilled["parameters"], one.bytes, whole / one.bytes, one.p50_ms)
            rows.append(DemonstratedModel(f"{one.path.name}, seed 0", one.path, "litert", *figures))
    return tuple(rows)


def _first(student: dict[str, Any]) -> Path:
    return Path(student["accuracy"]["runs"][0]["model"])
