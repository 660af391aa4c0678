"""The rules for a Keras configuration, the same for `.keras` and `.h5` files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from kdcli.screening.keras_json import Unreadable, parse_json
from kdcli.screening.keras_objects import check_object, objects_of
from kdcli.screening.keras_sizes import check_calls, check_numbers
from kdcli.screening.keras_weights import check_weights
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
    calls = list(check_calls(config))
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
        yield from check_weights(objects_of(config), held=held)


def _found(config: Any, code: Collection[str]) -> Iterator[Finding]:
    for found in objects_of(config):
        yield from check_object(found, code=code)
        yield from check_numbers(found)
