"""Whether a run that goes on is the one that is asked for: its settings are compared with those of its start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kdcli.errors import UsageError
from kdcli.recipe.document import Path as Setting
from kdcli.recipe.document import dotted, leaves
from kdcli.runs.directory import MODEL, SUMMARY
from kdcli.workflows.asking import Asked

# Inputs are matched by content, not by path; where a run was computed is no setting of it.
BY_CONTENT = (
    "train.devices",
    "data.source.path",
    *(f"data.source.{split}.path" for split in ("train", "validation", "test")),
    "teacher.model.path",
    "student.model.path",
)
# One of several teachers, or of several stages, is matched as one alone.
_UNNUMBERED = re.compile(r"^(?:stages\.\d+\.)?((?:teacher|student)\.)(?:\d+\.)?")
# A list that is empty, and one that an earlier version did not write; a stage that says nothing of a section.
_NOTHING: tuple[Any, ...] = ([None, []], [[], None], [None, {}], [{}, None])


def refuse_other_settings(asked: Asked, requested: dict[str, Any], path: Path) -> None:
    """With a recipe everything must be as it was; without one, what options and `--set` say.

    Raises:
        UsageError: naming the differences.
    """
    now = asked.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    around = [()] if asked.recipe_given else list(asked.origins.outside)
    compared = dict.fromkeys(
        setting for path in around for values in (requested, now) for setting, _ in leaves(_at(values, path), path)
    )
    differences = []
    for setting in compared:
        name = dotted(setting)
        before, after = _at(requested, setting), _at(now, setting)
        by_content = _UNNUMBERED.sub(r"\1", name).startswith((*BY_CONTENT, "description", "version", "gates"))
        if before != after and [before, after] not in _NOTHING and not by_content:
            differences.append(f"{name} is {_said(before)}, asked for {_said(after)}")
    if differences:
        raise UsageError(f"{path} holds a run with other settings: {'; '.join(differences)}", hint=_way_on(path))


def _said(value: Any) -> str:
    return "not set" if value is None else str(value)


def _way_on(path: Path) -> str:
    if (path / SUMMARY).exists():
        return f"to train on: --student {path / MODEL} --set student.start=file with another --out"
    return "give the same settings, or another --out"


def _at(values: Any, path: Setting) -> Any:
    for part in path:
        if isinstance(values, list):
            number = int(part) if str(part).isdecimal() else len(values)
            values = values[number] if number < len(values) else None
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values
