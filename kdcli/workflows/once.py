"""What several trainings of one comparison need alike, made once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Made = TypeVar("Made")


class Once:
    """Remembers by key what was expensive to make: the data, the teacher, the teacher's answers."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._made

    def __call__(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gives, from the first call with this key on."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
