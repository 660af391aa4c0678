"""kd demo: teacher, students, comparison and exported files, on the embedded digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.events import OnEvent, ignore_event
from kdcli.setup.context import never_stop

if TYPE_CHECKING:
    from kdcli.artifacts.conversion import ExportOptions
    from kdcli.runs.demo_results import Demonstration

RECIPE = "digits"
SEEDS = (0, 1, 2)


def demo(
    *,
    out: str | Path | None = None,
    threads: int | None = None,
    stop: Callable[[], int | None] = never_stop,
    on_event: OnEvent = ignore_event,
) -> Demonstration:
    """Run all main commands on embedded data, offline: about a minute and a half on two cores.

    Args:
        out: a folder for teacher, students, comparison and exports; a new one below `runs/` by default.
        threads: number of threads TensorFlow uses; has an effect only before TensorFlow has started.
        stop: called between steps; an exit code stops the training.
        on_event: receives progress, and the command of each stage.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.demo(out="runs/demo").comparison["verdict"]   # doctest: +SKIP
    """
    from kdcli.commands.compare import compare
    from kdcli.commands.distill import distill
    from kdcli.commands.export import export
    from kdcli.commands.train_teacher import train_teacher
    from kdcli.comparison.demo_models import DemoStages, list_demo_models
    from kdcli.runs.demo_results import Demonstration

    stages = DemoStages.start(out, RECIPE, on_event)
    path = stages.path
    teacher, students = path / "teacher", [path / f"student-{seed}" for seed in SEEDS]
    # The same split for all seeds: their baselines share it.
    split = "data.seed=0"
    with stages.run("teacher", f"train-teacher --recipe {RECIPE} --out {teacher}"):
        train_teacher(recipe=RECIPE, out=teacher, threads=threads, stop=stop, on_event=on_event)
    command = f"distill --recipe {RECIPE} --set {split} --teacher {teacher} --out {students[0]}"
    with stages.run("distill", f"{command}   (also --seed 1, 2)"):
        for seed, student in zip(SEEDS, students, strict=True):
            distill(
                recipe=RECIPE,
                settings=[split],
                teacher=teacher,
                seed=seed,
                out=student,
                threads=threads,
                stop=stop,
                on_event=on_event,
            )
    runs = " ".join(f"--distilled {student}" for student in students)
    with stages.run("compare", f"compare {runs} --out {path / 'compare'}"):
        compared = compare(distilled=students, out=path / "compare", threads=threads, stop=stop, on_event=on_event)
    kinds = "--format litert --quantize none --quantize int8"
    with stages.run("export", f"export {students[0]} {kinds} --out {path / 'export'}"):
        files: ExportOptions = {"quantize": ["none", "int8"], "threads": threads, "on_event": on_event}
        exported = export(students[0], formats=["litert"], out=path / "export", **files)
    document = compared.to_json()
    distilled = document["students"][1]
    verdict = {name: distilled[name] for name in ("verdict", "gain", "gap_recovered", "mcnemar_p")}
    return Demonstration(path, list_demo_models(path, document, exported), verdict, stages.total_seconds())
