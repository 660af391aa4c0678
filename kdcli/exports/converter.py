"""Run converters, which write to standard output, warn, and raise anything."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from kdcli.errors import ModelError, summarize_error
from kdcli.lazy import silence_descriptor

# How LiteRT's converter names the operation, in a long list of positions.
_OPERATION = re.compile(r"'tf\.\w+' op [^\n]*")


@contextmanager
def silence_converter(failure: str, *, hint: str = "--format keras supports every layer") -> Iterator[None]:
    """Hide the output of the block, and turn its exception into an error of one line.

    Args:
        failure: what has failed if the block raises, with the file name.
        hint: hint of the error.

    Raises:
        ModelError: names the unsupported operation, or quotes the first line of the converter's error.
        OSError: passed on unchanged.
    """
    caught: Exception | None = None
    with silence_descriptor(1), silence_descriptor(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except OSError:
            raise
        # Converters raise every kind of exception; each means that this model does not fit the format.
        except Exception as error:
            caught = error
    if caught is not None:
        operation = _OPERATION.search(str(caught))
        reason = operation[0] if operation else summarize_error(caught)
        raise ModelError(f"{failure}: {reason:.300}", hint=hint) from caught
