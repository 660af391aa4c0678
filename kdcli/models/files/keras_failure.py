"""Why Keras does not load a file, in one sentence, with the way on."""

from __future__ import annotations

import re

from kdcli.errors import summarize_error

CODE = "--code FILE.py brings the classes that the model was saved with"
ANEW = "open it with the version of Keras that saved it, and save it anew"
_LONGEST = 300
_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r"(\w+)\.__init__\(\) missing \d+ required (?:positional|keyword-only) arguments?: (.*)")
_UNLOCATED = re.compile(r"(?:Could not locate class|Unknown layer:) '(\w+)'")
_UNRECOGNIZED = re.compile(r"Unrecognized keyword arguments passed to (\w+): \{'(\w+)'")
# What Keras gives every layer when it makes it from a configuration.
_OF_EVERY_LAYER = ("name", "trainable", "dtype")
# Keras writes the cause last, and whole configurations around it.
_CAUSE = "Exception encountered: "
_CONFIGURATION = re.compile(r"\s*(?:Full object config|Config|config|using config)\s?[:=].*", re.DOTALL)


def explain_keras_failure(error: BaseException) -> tuple[str, str]:
    """The cause without the configuration that Keras wraps it in, and the way on."""
    cause = str(error).rsplit(_CAUSE, 1)[-1]
    unexpected, missing = _UNEXPECTED.search(cause), _MISSING.search(cause)
    if unexpected and unexpected[2] in _OF_EVERY_LAYER:
        said = f"the class {unexpected[1]} does not take {unexpected[2]!r}, which Keras gives every layer"
        return said, "in the file of --code: def __init__(self, ..., **kwargs): super().__init__(**kwargs)"
    if unexpected:
        said = f"the class {unexpected[1]} does not take {unexpected[2]!r}, with which it was saved"
        return said, "bring the class as it was when the model was saved: --code FILE.py"
    if missing:
        said = f"the class {missing[1]} needs {missing[2]}, which its get_config() did not save"
        return said, "in the file of --code: give these arguments the values that they had as defaults"
    unlocated, unrecognized = _UNLOCATED.search(cause), _UNRECOGNIZED.search(cause)
    if unlocated:
        return f"the class {unlocated[1]} is unknown here", CODE
    if unrecognized:
        return f"Keras' own {unrecognized[1]} does not take {unrecognized[2]!r} here", ANEW
    said = summarize_error(_CONFIGURATION.sub("", cause) or type(error).__name__)
    return (said if len(said) <= _LONGEST else f"{said[: _LONGEST - 3]}..."), ANEW
