"""Calling converters, which write to both outputs, warn, and raise whatever they meet."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from kdcli.errors import ModelError
from kdcli.lazy import quiet_descriptor


@contextmanager
def quietly(what: str) -> Iterator[None]:
    """Nothing that the block writes is shown, and its failure is one line.

    Args:
        what: went wrong when it fails.

    Raises:
        ModelError: with the last line of what the converter said.
        OSError: as it is.
    """
    failure: Exception | None = None
    with quiet_descriptor(1), quiet_descriptor(2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except OSError:
            raise
        # Converters raise every kind of exception; each of them means that this model does not fit the format.
        except Exception as error:
            failure = error
    if failure is not None:
        lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
        reason = lines[0] if lines else type(failure).__name__
        raise ModelError(f"{what}: {reason:.300}", hint="--format keras keeps every layer as it is") from failure
