"""Calling converters, which write to both outputs, warn, and raise whatever they meet."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from kdcli.errors import ModelError, summarize_error
from kdcli.lazy import silence_descriptor

# How LiteRT's converter names the operation, somewhere in a page of positions.
_OPERATION = re.compile(r"'tf\.\w+' op [^\n]*")


@contextmanager
def silence_converter(what: str, *, hint: str = "--format keras keeps every layer as it is") -> Iterator[None]:
    """Nothing that the block writes is shown, and its failure is one line.

    Args:
        what: went wrong when it fails.
        hint: the way on.

    Raises:
        ModelError: with the operation that does not fit, or the first line of what the converter said.
        OSError: as it is.
    """
    failure: Exception | None = None
    with silence_descriptor(1), silence_descriptor(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except OSError:
            raise
        # Converters raise every kind of exception; each of them means that this model does not fit the format.
        except Exception as error:
            failure = error
    if failure is not None:
        named = _OPERATION.search(str(failure))
        reason = named[0] if named else summarize_error(failure)
        raise ModelError(f"{what}: {reason:.300}", hint=hint) from failure
