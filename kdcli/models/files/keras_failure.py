"""Explains in one sentence why Keras cannot load a file, with a hint."""

from __future__ import annotations

import re

from kdcli.errors import summarize_error

_CODE_HINT = "--code FILE.py provides the classes that the model was saved with"
_SAVE_HINT = "open the model with the version of Keras that saved it, and save it again"
_MAX_CHARACTERS = 300
_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r"(\w+)\.__init__\(\) missing \d+ required (?:positional|keyword-only) arguments?: (.*)")
_UNLOCATED = re.compile(r"(?:Could not locate class|Unknown layer:) '(\w+)'")
_UNRECOGNIZED = re.compile(r"Unrecognized keyword arguments passed to (\w+): \{'(\w+)'")
# Arguments that Keras passes to every layer when it builds one from a configuration.
_LAYER_ARGUMENTS = ("name", "trainable", "dtype")
# Keras messages end with the cause and contain whole configurations.
_CAUSE = "Exception encountered: "
_CONFIGURATION = re.compile(r"\s*(?:Full object config|Config|config|using config)\s?[:=].*", re.DOTALL)


def explain_keras_failure(error: BaseException) -> tuple[str, str]:
    """Return the cause without the configuration that Keras puts around it, and a hint."""
    cause = str(error).rsplit(_CAUSE, 1)[-1]
    unexpected, missing = _UNEXPECTED.search(cause), _MISSING.search(cause)
    if unexpected and unexpected[2] in _LAYER_ARGUMENTS:
        reason = f"the class {unexpected[1]} does not accept {unexpected[2]!r}, which Keras passes to every layer"
        return reason, "in the --code file: def __init__(self, ..., **kwargs): super().__init__(**kwargs)"
    if unexpected:
        reason = f"the class {unexpected[1]} does not accept {unexpected[2]!r}, which it was saved with"
        return reason, "--code FILE.py must define the class as it was when the model was saved"
    if missing:
        reason = f"the class {missing[1]} needs {missing[2]}, which its get_config() did not save"
        return reason, "in the --code file: give these arguments the values of the saved model as defaults"
    unlocated, unrecognized = _UNLOCATED.search(cause), _UNRECOGNIZED.search(cause)
    if unlocated:
        return f"the class {unlocated[1]} is unknown", _CODE_HINT
    if unrecognized:
        return f"this version of Keras does not accept {unrecognized[2]!r} for {unrecognized[1]}", _SAVE_HINT
    reason = summarize_error(_CONFIGURATION.sub("", cause) or type(error).__name__)
    return (reason if len(reason) <= _MAX_CHARACTERS else f"{reason[: _MAX_CHARACTERS - 3]}..."), _SAVE_HINT
