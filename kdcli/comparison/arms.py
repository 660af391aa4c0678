"""The arms of a comparison: every student under every recipe, and their baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdcli.custom_kinds import CustomKinds
from kdcli.errors import ModelError, UsageError
from kdcli.jobs.build import label_term
from kdcli.jobs.stages import check_stages, last_stage, stages_of
from kdcli.models.custom_code import find_kinds
from kdcli.models.files.format import resolve_model_file
from kdcli.recipe.gates import GatesSection
from kdcli.recipe.model_sections import TeacherSection
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs.directory import SUMMARY_FILE, find_run_model, find_run_recipe, read_json
from kdcli.runs.results import FinishedRun
from kdcli.screening.verdict import NO_TRUST
from kdcli.setup.checks import refuse_fresh_graph, refuse_trained_object, refuse_untrained
from kdcli.setup.ensemble_requests import check_ensemble, member_requests, teachers_text
from kdcli.setup.request import Request, RunOptions, make_request, require
from kdcli.setup.run_location import input_paths
from kdcli.zoo import File, Shrunk

SCRATCH = "scratch"


@dataclass(frozen=True)
class Arm:
    """One student trained in one way, over all seeds.

    Args:
        name: name in tables and documents: `scratch`, or `<student>/<recipe>`.
        folder: folder of its runs in the comparison directory.
        request: the request for the first seed.
        baseline: name of the arm to compare with; None for a baseline.
        seeds: seeds of its runs.
        finished: runs that were finished before, by seed.
        splits_per_seed: whether each seed has its own split, limit and views, as finished runs may have.
    """

    name: str
    folder: str
    request: Request
    baseline: str | None
    seeds: tuple[int, ...]
    finished: dict[int, FinishedRun] = field(default_factory=dict)
    splits_per_seed: bool = False

    @property
    def inputs(self) -> list[Path]:
        """The files and folders that the arm reads."""
        return [*input_paths(self.request.recipe), *(run.run for run in self.finished.values())]

    def at(self, seed: int, out: Path | None = None) -> Request:
        """The request for a seed, with the split, limit and views of the first seed unless `splits_per_seed`.

        Args:
            seed: seed of the run.
            out: the run directory; an unfinished run in it is continued.
        """
        recipe = self.request.recipe
        train = recipe.train.model_copy(update={"seed": seed})
        data = recipe.data if self.splits_per_seed else recipe.data.model_copy(update={"seed": recipe.data_seed})
        recipe = recipe.model_copy(update={"train": train, "data": data})
        return replace(self.request, recipe=recipe, out=out, resume=out is not None, overwrite=False)


def make_arms(
    *,
    teacher: Any,
    students: Sequence[Any],
    recipes: Sequence[Any],
    distilled: Sequence[str | Path],
    repeats: int | None,
    options: RunOptions,
) -> tuple[Arm, ...]:
    """Make an arm for every student under every recipe, and the baselines; the baselines come first.

    Args:
        teacher: teacher of all arms; by default that of the recipe.
        students: students; by default that of each recipe.
        recipes: recipes; by default `soft-targets`, unless there are finished runs.
        distilled: finished runs of `kd distill`; runs that differ only in their seed are repeats of one arm.
        repeats: number of seeds of each arm that is trained; by default 3.
        options: options as for `make_request`.

    Raises:
        UsageError: a recipe or an option is wrong or missing.
    """
    if distilled and not recipes:
        _refuse_without_effect(repeats=repeats, student=students or None, **options)
    # The kinds are loaded once, so that arms with the same custom kind are equal.
    code = options.get("code") or ()
    custom = code if isinstance(code, CustomKinds) else find_kinds([Path(file) for file in code])
    shared: RunOptions = {**options, "code": custom}
    names: dict[str, str] = {}
    arms: list[Arm] = []
    for recipe in _drop_repeated(recipes) or ([] if distilled else [None]):
        for student in _drop_repeated(students) or [None]:
            request = _start_fresh(make_request(recipe, teacher=teacher, student=student, **shared))
            check_stages(stages_of(request, Path()))
            last = last_stage(request)
            require(last, "data", "teacher", "student")
            check_ensemble(request)
            for one in member_requests(request):
                refuse_untrained(one)
            refuse_trained_object(last)
            first = request.recipe.train.seed
            seeds = tuple(range(first, first + (repeats or 3)))
            arms.append(_make_arm(request, seeds, names, taken=arms))
    arms += _make_finished_arms(distilled, names, arms, teacher=teacher, options=shared)
    _refuse_several_teachers(arms)
    for arm in arms:
        for section in arm.request.recipe.sides.values():
            if isinstance(section.model, File):
                resolve_model_file(Path(section.model.path), trust=arm.request.trust)
        refuse_fresh_graph(last_stage(arm.request))
    baselines: dict[str, Arm] = {}
    paired = [replace(arm, baseline=_find_baseline(arm, baselines, arms).name) for arm in arms]
    return (*baselines.values(), *paired)


def _drop_repeated(sources: Sequence[Any]) -> list[Any]:
    """Drop files that are named twice."""
    keys = [Path(one).resolve() if isinstance(one, str | Path) else id(one) for one in sources]
    return [one for number, one in enumerate(sources) if keys[number] not in keys[:number]]


def _refuse_without_effect(**options: Any) -> None:
    """Refuse training options if every arm is a finished run: its baseline is trained in the same way."""
    for name in ("student", "repeats", "seed", "epochs", "batch_size", "limit"):
        if options.get(name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} has no effect on --distilled: a baseline is trained like its RUN",
                hint="omit it, or use --recipe instead of --distilled",
            )
    if options.get("settings"):
        raise UsageError(
            "--set has no effect on --distilled: a baseline is trained like its RUN",
            hint="omit it, or use --recipe instead of --distilled",
        )


def _refuse_several_teachers(arms: Sequence[Arm]) -> None:
    teachers = {teachers_text(arm.request.recipe) for arm in arms} - {""}
    if len(teachers) > 1:
        raise UsageError(
            f"all arms of a comparison must have the same teacher or ensemble (got {len(teachers)})",
            hint="--teacher FILE",
        )


def _start_fresh(request: Request) -> Request:
    """Start every seed from new weights, unless the recipe sets `student.start` or the student inherits some."""
    student = request.recipe.student
    if student.start == "auto":
        start = "inherited" if isinstance(student.model, Shrunk) else "fresh"
        student = student.model_copy(update={"start": start})
    return replace(request, recipe=request.recipe.model_copy(update={"student": student}), recipe_given=True)


def _make_arm(
    request: Request,
    seeds: tuple[int, ...],
    names: dict[str, str],
    *,
    taken: Sequence[Arm],
    finished: dict[int, FinishedRun] | None = None,
) -> Arm:
    student = _name_student(last_stage(request), names)
    name = _find_unused(f"{student}/{request.name}", (arm.name for arm in taken))
    return Arm(name, name, request=request, baseline=None, seeds=seeds, finished=finished or {})


def _name_student(request: Request, names: dict[str, str]) -> str:
    """A short name for the student; a different student with the same name gets a number."""
    model = request.recipe.student.model
    instance = request.models.get("student")
    key = str(id(instance)) if instance is not None else model.model_dump_json() if model else ""
    if isinstance(model, Shrunk):
        key += request.recipe.student.start
    if key not in names:
        short = "student"
        if isinstance(model, File):
            path = Path(model.path)
            short = path.parent.name if find_run_recipe(path) and path.is_file() else path.stem
        elif instance is not None:
            short = instance.name
        elif isinstance(model, Shrunk):
            short = "shrunk-fresh" if request.recipe.student.start == "fresh" else "shrunk-inherited"
        elif model is not None:
            short = model.name
        names[key] = _find_unused(short, names.values())
    return names[key]


def _find_unused(name: str, taken: Iterable[str]) -> str:
    known, number, free = set(taken), 2, name
    while free in known:
        free, number = f"{name}-{number}", number + 1
    return free


def _find_baseline(arm: Arm, baselines: dict[str, Arm], arms: Sequence[Arm]) -> Arm:
    """The baseline of an arm, which is shared with other arms if possible."""
    request = _make_baseline_request(last_stage(arm.request), chain=arm.request)
    models = [id(model) for model in request.models.values()]
    key = f"{request.recipe.model_dump_json()} {models} {arm.splits_per_seed}"
    if key in baselines:
        baseline = baselines[key]
        baselines[key] = replace(baseline, seeds=tuple(sorted({*baseline.seeds, *arm.seeds})))
        return baselines[key]
    student = arm.folder.rsplit("/", 1)[0]
    folder = _find_unused(f"{student}/{SCRATCH}", (one.folder for one in (*baselines.values(), *arms)))
    name = folder if baselines else SCRATCH
    baselines[key] = Arm(
        name, folder, request=request, baseline=None, seeds=arm.seeds, splits_per_seed=arm.splits_per_seed
    )
    return baselines[key]


def _make_finished_arms(
    runs: Sequence[str | Path],
    names: dict[str, str],
    arms: Sequence[Arm],
    *,
    teacher: Any,
    options: RunOptions,
) -> list[Arm]:
    """Make an arm of all finished runs that differ only in their seed."""
    found: dict[str, Arm] = {}
    for path in map(Path, runs):
        model, recipe = find_run_model(path), find_run_recipe(path)
        if model is None or recipe is None or not (path / SUMMARY_FILE).exists():
            raise ModelError(
                f"--distilled {path}: not a finished run", hint="create one with kd distill --out DIR"
            )
        document = read_json(path / SUMMARY_FILE)
        if document.get("teacher") is None:
            raise ModelError(f"--distilled {path}: a run of kd train-teacher has no teacher to compare with")
        request = make_request(
            recipe,
            teacher=teacher,
            data=options.get("data"),
            devices=options.get("devices"),
            trust=options.get("trust", NO_TRUST),
            code=options.get("code", ()),
        )
        name = Path(recipe).parent.name
        require(request, "data", "teacher", "student")
        seed = read_run_recipe(recipe).train.seed
        run = FinishedRun(path, model, document)
        train = request.recipe.train.model_copy(update={"seed": 0})
        key = request.recipe.model_copy(update={"train": train}).model_dump_json()
        if key in found:
            before = found[key]
            if seed in before.finished:
                raise UsageError(f"--distilled {path}: another run of the same recipe has the same seed {seed}")
            finished = {**before.finished, seed: run}
            found[key] = replace(before, seeds=tuple(sorted(finished)), finished=finished)
            continue
        request = replace(request, name=name, recipe_given=True)
        arm = _make_arm(request, (seed,), names, taken=[*arms, *found.values()], finished={seed: run})
        found[key] = replace(arm, splits_per_seed=request.recipe.data.seed is None)
    return list(found.values())


def _make_baseline_request(request: Request, *, chain: Request) -> Request:
    """The request to train the same student on labels only: same initial weights, batches, steps and selection.

    A student that was shrunk in stages has no initial weights of its own: its baseline starts from fresh ones.

    Args:
        request: the request of the distilled student, or of the last stage.
        chain: the request with all stages.

    Raises:
        UsageError: the student is a clone of a model that is trained in an earlier stage.
    """
    recipe, first = request.recipe, member_requests(request)[0]
    # A student that is built from its teacher needs the teacher for its baseline too.
    built = recipe.student.model is not None and recipe.student.model.needs_teacher
    if chain.recipe.stages and isinstance(recipe.student.model, Shrunk):
        model = recipe.student.model.model_copy(update={"of": "teacher", "relative_to": None})
        student = recipe.student.model_copy(update={"model": model, "start": "fresh"})
        recipe, first = recipe.model_copy(update={"student": student}), member_requests(chain)[0]
    elif built and chain.recipe.stages:
        raise UsageError(
            "the last student is built from a model that an earlier stage trains, so it has no baseline",
            hint="name its architecture, or compare a finished run: kd compare --distilled RUN",
        )
    models = {role: model for role, model in first.models.items() if role == "student" or built}
    update: dict[str, Any] = {
        "losses": (label_term(recipe),),
        "taught_by": first.recipe.teacher if built else TeacherSection(),
        "ensemble": None,
        "description": "",
        "gates": GatesSection(),
    }
    return replace(request, recipe=recipe.model_copy(update=update), name=SCRATCH, models=models)
