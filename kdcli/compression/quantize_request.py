"""What `kd quantize` should do: the recipe of the training, from a run or from options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from kdcli.errors import UsageError
from kdcli.models.files.format import SAVED_MODEL, detect_format, resolve_model_file
from kdcli.recipe.gates import Gate
from kdcli.recipe.reader import read_run_recipe
from kdcli.recipe.sections import Recipe
from kdcli.runs.directory import find_run_recipe, find_run_role
from kdcli.screening.verdict import NO_TRUST
from kdcli.setup.request import ModelLike, RecipeLike, Request, RunOptions, make_request, require

# Length and learning rate relative to the training before: a few epochs at a tenth of the rate.
EPOCHS, RATE = 3, 0.1
# The student's own outputs are its first teacher: their softmax, not softened.
_LOSSES = [{"kind": "soft_targets", "temperature": 1.0, "weight": 1.0}]
# Settings of the training before that have no meaning here.
_DROPPED = ("stages", "gates", "ensemble", "description", "losses")


def make_quantize_request(
    model: Path,
    *,
    teacher: ModelLike | None,
    recipe: RecipeLike | None,
    gates: Sequence[str | Gate],
    **options: Unpack[RunOptions],
) -> Request:
    """Build the request of a quantization-aware training.

    Args:
        model: a Keras file or a run; a run brings its data, preprocessing, teacher and optimizer.
        teacher: a further teacher; that of the run by default.
        recipe: for data, preprocessing and optimizer, instead of those of the run.
        gates: bounds on the file.
        options: of the training.

    Raises:
        ModelError: the model is missing, or has no layers to quantize.
        UsageError: there is no data, or an option is wrong.
    """
    file = resolve_model_file(model, trust=options.get("trust", NO_TRUST))
    if detect_format(file) == SAVED_MODEL:
        raise UsageError(
            f"{model}: a SavedModel does not list its layers, so it cannot be quantized by training",
            hint="use the .keras file it was made from, or kd export --quantize int8",
        )
    run_recipe = find_run_recipe(model)
    base = None if run_recipe is None else read_run_recipe(run_recipe)
    if recipe is not None:
        shared: Any = {name: options[name] for name in ("settings", "code", "data") if name in options}
        base = make_request(recipe, **shared).recipe
    role = find_run_role(model) if run_recipe is not None else "student"
    values = _make_values(model, base or Recipe(), role, teacher, has_run=run_recipe is not None)
    request = make_request(values, gates=gates, **options)
    require(request, "data")
    return request


def _make_values(model: Path, base: Recipe, role: str, teacher: Any, *, has_run: bool) -> dict[str, Any]:
    """The recipe as a mapping: the model is the student and the first teacher."""
    values = base.model_dump(mode="json", by_alias=True, exclude_none=True)
    before = values.get("train", {})
    optimizer = dict(before.get("optimizer", {}))
    optimizer["learning_rate"] = optimizer.get("learning_rate", 1e-3) * RATE
    section = values.get(role, {}) if has_run else values.get("student", {})
    own = {name: section[name] for name in ("input", "output", "output_kind") if name in section}
    own["model"] = {"kind": "file", "path": str(model)}
    teachers = [own]
    if teacher is not None:
        teachers.append({"model": {"kind": "file", "path": str(teacher)}})
    elif has_run and role == "student":
        teachers += [one for one in _list_teachers(values) if _exists(one)]
    train = {name: value for name, value in before.items() if name not in ("steps", "early_stopping")}
    train |= {"quantize": "int8", "epochs": EPOCHS, "optimizer": optimizer, "schedule": {"kind": "cosine"}}
    kept = {name: value for name, value in values.items() if name not in _DROPPED}
    return {
        **kept,
        "teacher": teachers if len(teachers) > 1 else own,
        "student": {**own, "start": "file"},
        "losses": _LOSSES,
        "train": train,
    }


def _list_teachers(values: dict[str, Any]) -> list[dict[str, Any]]:
    section = values.get("teacher") or []
    return section if isinstance(section, list) else [section]


def _exists(section: dict[str, Any]) -> bool:
    """Whether the file of a run's teacher is still there."""
    return Path(section.get("model", {}).get("path", "")).exists() and "path" in section.get("model", {})
