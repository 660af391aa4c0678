"""The arms of a comparison: every student under every recipe, and beside them the same student alone."""

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
from kdcli.setup.ensemble_members import check_ensemble, member_requests, teachers_text
from kdcli.setup.request import Request, RunOptions, make_request, require
from kdcli.setup.run_location import input_paths
from kdcli.zoo import Clone, File


@dataclass(frozen=True)
class Arm:
    """One student trained in one way, over all seeds.

    Args:
        name: in tables and documents: `scratch`, or `<student>/<recipe>`.
        folder: of its runs, below the comparison's directory.
        asked: what to do, with the first seed.
        baseline: the arm to compare with; None for a student alone.
        finished: runs that were given, by seed.
        own_splits: whether each seed has split, limit and views of its own, as runs have that were given.
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
        """Files and folders that the arm reads."""
        return [*input_paths(self.request.recipe), *(run.run for run in self.finished.values())]

    def at(self, seed: int, out: Path | None = None) -> Request:
        """What to do with one seed; split, limit and views stay those of the first, unless each has its own.

        Args:
            seed: of the pair.
            out: the run directory, which is continued where it exists.
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
    """Every student under every recipe with its twin alone, twins first.

    Args:
        teacher: for every arm; from the recipe when None.
        students: none is each recipe's own.
        recipes: none is `soft-targets`, unless finished runs are given.
        distilled: finished runs of `kd distill`; runs that differ only in their seed are repeats of one arm.
        repeats: seeds for each arm that is trained; 3 when None.
        options: as for `make_request`.

    Raises:
        UsageError: a recipe, an option, or what is missing.
    """
    if distilled and not recipes:
        _refuse_without_effect(repeats=repeats, student=students or None, **options)
    # Found once: two arms with the same own kind are equal then.
    code = options.get("code") or ()
    custom = code if isinstance(code, CustomKinds) else find_kinds([Path(file) for file in code])
    shared: RunOptions = {**options, "code": custom}
    names: dict[str, str] = {}
    arms: list[Arm] = []
    for recipe in _once_each(recipes) or ([] if distilled else [None]):
        for student in _once_each(students) or [None]:
            request = _fresh(make_request(recipe, teacher=teacher, student=student, **shared))
            check_stages(stages_of(request, Path()))
            last = last_stage(request)
            require(last, "data", "teacher", "student")
            check_ensemble(request)
            for one in member_requests(request):
                refuse_untrained(one)
            refuse_trained_object(last)
            first = request.recipe.train.seed
            seeds = tuple(range(first, first + (repeats or 3)))
            arms.append(_arm(request, seeds, names, taken=arms))
    arms += _finished_arms(distilled, names, arms, teacher=teacher, options=shared)
    _refuse_several_teachers(arms)
    for arm in arms:
        for section in arm.request.recipe.sides.values():
            if isinstance(section.model, File):
                resolve_model_file(Path(section.model.path), trust=arm.request.trust)
        refuse_fresh_graph(last_stage(arm.request))
    twins: dict[str, Arm] = {}
    paired = []
    for arm in arms:
        twin = _twin(arm, twins, arms)
        paired.append(replace(arm, baseline=twin.name))
    return (*twins.values(), *paired)


def _once_each(given: Sequence[Any]) -> list[Any]:
    """Without files that are named twice."""
    keys = [Path(one).resolve() if isinstance(one, str | Path) else id(one) for one in given]
    return [one for number, one in enumerate(given) if keys[number] not in keys[:number]]


def _refuse_without_effect(**options: Any) -> None:
    """Refuse options of training where every arm is a run that exists: its twin is trained as it was."""
    for name in ("student", "repeats", "seed", "epochs", "batch_size", "limit"):
        if options.get(name) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is for arms that are trained; a twin is trained as its RUN was",
                hint="leave it out, or give --recipe instead of --distilled",
            )
    if options.get("settings"):
        raise UsageError("--set is for arms that are trained; a twin is trained as its RUN was", hint="--recipe")


def _refuse_several_teachers(arms: Sequence[Arm]) -> None:
    teachers = {teachers_text(arm.request.recipe) for arm in arms} - {""}
    if len(teachers) > 1:
        raise UsageError(
            f"a comparison has one teacher (or one list), the recipes name {len(teachers)}", hint="--teacher FILE"
        )


def _fresh(request: Request) -> Request:
    """In a comparison every seed has weights of its own, unless the recipe asks for the file's."""
    student = request.recipe.student
    if student.start == "auto":
        student = student.model_copy(update={"start": "fresh"})
    return replace(request, recipe=request.recipe.model_copy(update={"student": student}), recipe_given=True)


def _arm(
    request: Request,
    seeds: tuple[int, ...],
    names: dict[str, str],
    *,
    taken: Sequence[Arm],
    finished: dict[int, FinishedRun] | None = None,
) -> Arm:
    student = _student_name(last_stage(request), names)
    name = _unused(f"{student}/{request.name}", (arm.name for arm in taken))
    return Arm(name, name, request, None, seeds, finished or {})


def _student_name(request: Request, names: dict[str, str]) -> str:
    """A short name for the student; another one of the same name gets a number."""
    model = request.recipe.student.model
    given = request.models.get("student")
    key = str(id(given)) if given is not None else model.model_dump_json() if model else ""
    if key not in names:
        short = "student"
        if isinstance(model, File):
            path = Path(model.path)
            short = path.parent.name if find_run_recipe(path) and path.is_file() else path.stem
        elif given is not None:
            short = given.name
        elif model is not None:
            short = model.name
        names[key] = _unused(short, names.values())
    return names[key]


def _unused(name: str, taken: Iterable[str]) -> str:
    known, number, free = set(taken), 2, name
    while free in known:
        free, number = f"{name}-{number}", number + 1
    return free


def _twin(arm: Arm, twins: dict[str, Arm], arms: Sequence[Arm]) -> Arm:
    """The student alone: same weights at the start, same batches, steps and selection, labels only."""
    request = alone(last_stage(arm.request), staged=bool(arm.request.recipe.stages))
    key = f"{is_alone_as(request)} {arm.splits_per_seed}"
    if key in twins:
        twin = twins[key]
        twins[key] = replace(twin, seeds=tuple(sorted({*twin.seeds, *arm.seeds})))
        return twins[key]
    student = arm.folder.rsplit("/", 1)[0]
    folder = _unused(f"{student}/{SCRATCH}", (one.folder for one in (*twins.values(), *arms)))
    name = folder if twins else SCRATCH
    twins[key] = Arm(name, folder, request, None, arm.seeds, splits_per_seed=arm.splits_per_seed)
    return twins[key]


def _finished_arms(
    runs: Sequence[str | Path],
    names: dict[str, str],
    arms: Sequence[Arm],
    *,
    teacher: Any,
    options: RunOptions,
) -> list[Arm]:
    found: dict[str, Arm] = {}
    for given in runs:
        path = Path(given)
        model, recipe = find_run_model(path), find_run_recipe(path)
        if model is None or recipe is None or not (path / SUMMARY_FILE).exists():
            raise ModelError(f"--distilled {path}: no finished run", hint="kd distill --out DIR makes one")
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
                raise UsageError(f"--distilled {path}: another run of the same recipe has the seed {seed} too")
            finished = {**before.finished, seed: run}
            found[key] = replace(before, seeds=tuple(sorted(finished)), finished=finished)
            continue
        request = replace(request, name=name, recipe_given=True)
        arm = _arm(request, (seed,), names, taken=[*arms, *found.values()], finished={seed: run})
        found[key] = replace(arm, splits_per_seed=request.recipe.data.seed is None)
    return list(found.values())


SCRATCH = "scratch"


def alone(request: Request, *, staged: bool = False) -> Request:
    """The same student with labels only: same weights at the start, same batches, steps and selection.

    Args:
        asked: what is asked of the distilled one.
        staged: whether it is the last one of several stages.

    Raises:
        UsageError: a clone of what is not there yet.
    """
    recipe, first = request.recipe, member_requests(request)[0]
    # A clone is its teacher's architecture, so its twin needs to know the teacher too.
    clone = isinstance(recipe.student.model, Clone)
    if clone and staged:
        raise UsageError(
            "the last student is a clone of an assistant, which is not there before it is trained",
            hint="name its architecture, or kd compare --distilled RUN with a finished run",
        )
    models = {role: model for role, model in first.models.items() if role == "student" or clone}
    update: dict[str, Any] = {
        "losses": (label_term(recipe),),
        "taught_by": first.recipe.teacher if clone else TeacherSection(),
        "ensemble": None,
        "description": "",
        "gates": GatesSection(),
    }
    return replace(request, recipe=recipe.model_copy(update=update), name=SCRATCH, models=models)


def is_alone_as(request: Request) -> str:
    """What tells one student alone from another."""
    return f"{request.recipe.model_dump_json()} {[id(model) for model in request.models.values()]}"
