"""Several teachers in a recipe's text: a list as long as the teachers that are named, settings for all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from kdcli.errors import UsageError
from kdcli.recipe.document import Document

_TEACHER = "teacher"


def expand_teachers(document: Document, count: int) -> None:
    """Make room for teachers that are named beside the recipe: its one `teacher` section holds for each of them.

    Args:
        document: changed in place.
        count: of teachers that are named.

    Raises:
        UsageError: the recipe lists another number of them.
    """
    listed = document.values.get(_TEACHER)
    if isinstance(listed, list) and len(listed) != count:
        raise UsageError(
            f"{count} {'teacher is' if count == 1 else 'teachers are'} named, and {document.source} lists "
            f"{len(listed)}",
            hint="--teacher FILE once for each of them, in the recipe's order",
        )
    # What is no section at all is left to the check of the whole.
    if count == 1 or not isinstance(listed, dict | None):
        return
    document.values[_TEACHER] = [copy.deepcopy(listed or {}) for _ in range(count)]
    for places in (document.places, document.value_places):
        for path in [path for path in places if path[0:1] == (_TEACHER,) and len(path) > 1]:
            for number in range(count):
                places[_TEACHER, number, *path[1:]] = places[path]


def expand_setting(values: dict[str, Any], parts: Sequence[str]) -> list[list[str]]:
    """The settings that a setting stands for: of several teachers, one without a number is for every one."""
    listed = values.get(_TEACHER)
    whole = parts[0] != _TEACHER or len(parts) < 2 or parts[1].isdecimal()
    if whole or not isinstance(listed, list):
        return [list(parts)]
    return [[_TEACHER, str(number), *parts[1:]] for number in range(len(listed))]
