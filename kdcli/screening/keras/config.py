"""The rules for a Keras configuration, the same for `.keras` and `.h5` files."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from kdcli.screening.keras.objects import check_object, objects_of
from kdcli.screening.keras.sizes import check_layer_calls, check_numbers
from kdcli.screening.keras.weights import check_weight_count
from kdcli.screening.verdict import Finding

# A damaged file may have the same fault in every layer: these are enough to know.
MOST_FINDINGS = 100


def check_config(text: bytes, *, code: Collection[str], held: int | None, where: str) -> Iterator[Finding]:
    """Find out what a model's configuration asks Keras to make.

    How the model was compiled is left out: kd opens it without, and makes nothing of what stands there.

    Args:
        text: JSON.
        code: names that the user's own files have registered with Keras.
        held: values in the file's weights; None where they are not known.
        where: what messages call the configuration.
    """
    try:
        config = parse_json(text)
    except Unreadable as error:
        yield Finding("unreadable", f"{where} {error}")
        return
    if not isinstance(config, dict) or "class_name" not in config or "config" not in config:
        yield Finding("unreadable", f"{where} describes no model")
        return
    config = {key: value for key, value in config.items() if key != "compile_config"}
    calls = list(check_layer_calls(config))
    yield from calls
    if calls:
        return
    left = MOST_FINDINGS
    for finding in _found(config, code):
        yield finding
        left -= 1
        if not left:
            return
    if held is not None:
        yield from check_weight_count(objects_of(config), held=held)


def _found(config: Any, code: Collection[str]) -> Iterator[Finding]:
    for found in objects_of(config):
        yield from check_object(found, code=code)
        yield from check_numbers(found)


# The largest configurations of `keras.applications` have 1 MB; a vocabulary in one may have some more.
MAX_CONFIG_BYTES = 32_000_000
# Each value costs Python some 70 bytes, so that this many stay below 300 MB.
_MAX_VALUES = 4_000_000
# A model inside a model lies five levels deeper; Keras itself fails at some hundred.
_MAX_LEVELS = 100


class Unreadable(Exception):
    """Why a text is not a configuration, as a clause."""


def parse_json(text: bytes) -> Any:
    """What a text says.

    Args:
        text: in UTF-8.

    Raises:
        Unreadable: too large, nested too deeply, a key twice in one object, or no JSON.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise Unreadable(f"has {len(text)} bytes, {MAX_CONFIG_BYTES} are the most")
    if sum(text.count(mark) for mark in b",[{") > _MAX_VALUES:
        raise Unreadable(f"has more than {_MAX_VALUES} values")
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    # Also numbers with thousands of digits.
    except ValueError as error:
        raise Unreadable(f"is no JSON: {str(error)[:100]}") from None
    if _levels(parsed) > _MAX_LEVELS:
        raise Unreadable(f"is nested too deeply, {_MAX_LEVELS} levels are the most")
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
        if deepest > _MAX_LEVELS:
            break
        if isinstance(held, dict | list):
            inner = held.values() if isinstance(held, dict) else held
            waiting += [(one, level + 1) for one in inner if isinstance(one, dict | list)]
    return deepest
