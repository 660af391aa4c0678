"""The rules for the configuration of a Keras model, shared by `.keras` and `.h5` files."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

from kdcli.screening.keras.objects import check_object, find_objects
from kdcli.screening.keras.sizes import check_layer_calls, check_numbers
from kdcli.screening.keras.weights import check_weight_count
from kdcli.screening.verdict import MAX_FINDINGS, Finding

# The largest configurations of `keras.applications` have 1 MB; a stored vocabulary may need more.
MAX_CONFIG_BYTES = 32_000_000
# A value takes about 70 bytes in Python, so these stay below 300 MB.
_MAX_VALUES = 4_000_000
# Each nested model adds five levels; Keras itself fails at a few hundred.
_MAX_LEVELS = 100


class UnreadableConfigError(Exception):
    """Why a text cannot be read as a configuration: a clause without its subject."""


def check_config(
    text: bytes, *, custom_names: Collection[str], stored_values: int | None, name: str
) -> Iterator[Finding]:
    """Check what a model's configuration makes Keras create.

    The compile settings are ignored: kd opens models without them.

    Args:
        text: JSON.
        custom_names: names that the user's own code has registered with Keras.
        stored_values: number of values in the file's weights; None if unknown.
        name: the configuration's name in messages.
    """
    try:
        config = parse_json(text)
    except UnreadableConfigError as error:
        yield Finding("unreadable", f"{name} {error}")
        return
    if not isinstance(config, dict) or "class_name" not in config or "config" not in config:
        yield Finding("unreadable", f"{name} does not describe a model")
        return
    config = {key: value for key, value in config.items() if key != "compile_config"}
    calls = list(check_layer_calls(config))
    if calls:
        yield from calls
        return
    findings = list(islice(_check_objects(config, custom_names), MAX_FINDINGS))
    yield from findings
    if stored_values is not None and len(findings) < MAX_FINDINGS:
        yield from check_weight_count(find_objects(config), stored_values=stored_values)


def _check_objects(config: Any, custom_names: Collection[str]) -> Iterator[Finding]:
    for item in find_objects(config):
        yield from check_object(item, custom_names=custom_names)
        yield from check_numbers(item)


def parse_json(text: bytes) -> Any:
    """Parse a configuration, with limits on its size and depth.

    Args:
        text: JSON in UTF-8.

    Raises:
        UnreadableConfigError: too large, nested too deeply, a repeated key, or not JSON.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise UnreadableConfigError(f"has {len(text):,} bytes (at most {MAX_CONFIG_BYTES:,})")
    if sum(text.count(mark) for mark in b",[{") > _MAX_VALUES:
        raise UnreadableConfigError(f"has more than {_MAX_VALUES:,} values")
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
    except RecursionError:
        raise UnreadableConfigError("is nested too deeply") from None
    # Includes numbers with thousands of digits.
    except ValueError as error:
        raise UnreadableConfigError(f"is not valid JSON: {str(error)[:100]}") from None
    if _depth(parsed) > _MAX_LEVELS:
        raise UnreadableConfigError(f"is nested too deeply (at most {_MAX_LEVELS} levels)")
    return parsed


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise UnreadableConfigError(f"repeats the key {repeated[:80]!r} in one object")
    return made


def _depth(value: Any) -> int:
    """The number of nested levels; stops counting above the limit."""
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        container, level = waiting.pop()
        deepest = max(deepest, level)
        if deepest > _MAX_LEVELS:
            break
        if isinstance(container, dict | list):
            inner = container.values() if isinstance(container, dict) else container
            waiting += [(one, level + 1) for one in inner if isinstance(one, dict | list)]
    return deepest
