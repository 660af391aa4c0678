"""The JSON of a Keras configuration, read under limits: what is parsed twice must mean the same both times."""

from __future__ import annotations

import json
from typing import Any

# The largest configurations of `keras.applications` have 1 MB; a vocabulary in one may have some more.
MOST_BYTES = 32_000_000
# Each value costs Python some 70 bytes, so that this many stay below 300 MB.
MOST_VALUES = 4_000_000
# A model inside a model lies five levels deeper; Keras itself fails at some hundred.
MOST_LEVELS = 100


class Unreadable(Exception):
    """Why a text is not a configuration, as a clause."""


def parse_json(text: bytes) -> Any:
    """What a text says.

    Args:
        text: in UTF-8.

    Raises:
        Unreadable: too large, nested too deeply, a key twice in one object, or no JSON.
    """
    if len(text) > MOST_BYTES:
        raise Unreadable(f"has {len(text)} bytes, {MOST_BYTES} are the most")
    if sum(text.count(mark) for mark in b",[{") > MOST_VALUES:
        raise Unreadable(f"has more than {MOST_VALUES} values")
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    # Also numbers with thousands of digits.
    except ValueError as error:
        raise Unreadable(f"is no JSON: {str(error)[:100]}") from None
    if _levels(parsed) > MOST_LEVELS:
        raise Unreadable(f"is nested too deeply, {MOST_LEVELS} levels are the most")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Unreadable(f"holds the key {twice[:80]!r} twice in one object")
    return made


def _levels(value: Any) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        held, level = waiting.pop()
        deepest = max(deepest, level)
        if deepest > MOST_LEVELS:
            break
        if isinstance(held, dict | list):
            inner = held.values() if isinstance(held, dict) else held
            waiting += [(one, level + 1) for one in inner if isinstance(one, dict | list)]
    return deepest
