"""kd demo: train a teacher, distil, compare and export on the embedded digits, with the commands' own functions."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.errors import UsageError
from kdcli.events import Note, OnEvent, ignore
from kdcli.workflows.starting import never

if TYPE_CHECKING:
    from kdcli.runs.demonstrated import DemonstratedModel, Demonstration
    from kdcli.runs.exported import Exported

RECIPE = "digits"
SEEDS = (0, 1, 2)


def demo(
    *,
    out: str | Path | None = None,
    threads: int | None = None,
    stop: Callable[[], int | None] = never,
    on_event: OnEvent = ignore,
) -> Demonstration:
    """The whole story, offline, in about a minute and a half on two cores.

    Args:
        out: a folder for teacher, students, comparison and exports; a new one below `runs/` when left out.
        threads: of TensorFlow, before it has started.
        stop: asked between steps; an exit code stops.
        on_event: told of progress.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.demo(out="runs/demo").comparison["verdict"]   # doctest: +SKIP
    """
    from kdcli.models.extras import require_extra
    from kdcli.runs.demonstrated import Demonstration
    from kdcli.runs.directory import default_out
    from kdcli.workflows.compare import compare
    from kdcli.workflows.distill import distill
    from kdcli.workflows.export import export
    from kdcli.workflows.train_teacher import train_teacher

    require_extra("litert", what="kd demo, which exports for LiteRT,")
    path = Path(out) if out is not None else default_out("demo", RECIPE)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--out {path} is not empty", hint="another --out")
    around: dict[str, Any] = {"threads": threads, "stop": stop, "on_event": on_event}
    began, seconds = time.perf_counter(), {}

    def told(stage: str, command: str) -> None:
        seconds[stage] = round(time.perf_counter() - began - sum(seconds.values()), 1)
        on_event(Note(f"that was: {command}"))

    teacher = path / "teacher"
    train_teacher(recipe=RECIPE, out=teacher, **around)
    told("teacher", f"kd train-teacher --recipe {RECIPE} --out {teacher}")
    students = [path / f"student-{seed}" for seed in SEEDS]
    for seed, student in zip(SEEDS, students, strict=True):
        distill(recipe=RECIPE, teacher=teacher, seed=seed, out=student, preflight=seed == SEEDS[0], **around)
    told("distill", f"kd distill --recipe {RECIPE} --teacher {teacher} --out {students[0]}   (and --seed 1, 2)")
    compared = compare(distilled=students, out=path / "compare", preflight=False, **around)
    given = " ".join(f"--distilled {student}" for student in students)
    told("compare", f"kd compare {given} --out {path / 'compare'}")
    shipped: dict[str, Any] = {"formats": ["litert"], "quantize": ["none", "int8"], "out": path / "export"}
    exported = export(students[0], **shipped, threads=threads, on_event=on_event)
    told(
        "export",
        f"kd export {students[0]} --format litert --quantize none --quantize int8 --out {path / 'export'}",
    )
    document = compared.to_json()
    distilled = document["students"][1]
    summary = {name: distilled[name] for name in ("verdict", "gain", "gap_recovered", "mcnemar_p")}
    seconds["total"] = round(time.perf_counter() - began, 1)
    return Demonstration(path, _models(path, document, exported), summary, seconds)


def _models(path: Path, compared: dict[str, Any], exported: Exported) -> tuple[DemonstratedModel, ...]:
    """The lines of the table: teacher, student alone, student distilled, and the files that ship."""
    from kdcli.runs.demonstrated import DemonstratedModel

    whole = compared["teacher"]["bytes"]
    rows = []
    for name, entry, model in (
        ("teacher", compared["teacher"], path / "teacher" / "teacher.keras"),
        ("student alone", compared["students"][0], None),
        ("student distilled", compared["students"][1], path / f"student-{SEEDS[0]}" / "student.keras"),
    ):
        accuracy, timed = entry["accuracy"], entry["latency"]
        if isinstance(accuracy, dict):
            accuracy = accuracy["mean"]
        file = model or Path(entry["accuracy"]["runs"][0]["model"])
        size = entry["bytes"]
        figures = (accuracy, entry["parameters"], size, whole / size, timed["p50_ms"])
        rows.append(DemonstratedModel(name, file, timed["runtime"], *figures))
    parameters = compared["students"][1]["parameters"]
    for one in exported.artifacts:
        if one.path is not None and one.accuracy is not None:
            figures = (one.accuracy, parameters, one.bytes, whole / one.bytes, one.p50_ms)
            rows.append(DemonstratedModel(one.path.name, one.path, "litert", *figures))
    return tuple(rows)
