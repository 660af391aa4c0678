"""Answers that are no numbers are refused before anything learns from them."""

from __future__ import annotations

import numpy as np

from kdcli.errors import ModelError
from kdcli.models.network import Network


def check_finite(teacher: Network, name: str, values: np.ndarray, *, start: int = 0) -> None:
    """Refuse answers of which one is NaN or infinite.

    Args:
        teacher: who answered.
        name: `logits` or a tap.
        values: (n, ...).
        start: the position of the first example.

    Raises:
        ModelError: with how many, and the position of the first.
    """
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        first = start + int(np.flatnonzero(~finite)[0])
        raise ModelError(
            f"the teacher ({teacher.name}) answers {int((~finite).sum())} of {len(values)} examples with NaN or "
            f"infinity (first at {first}; {name})",
            hint="check its input.scale and its weights: kd evaluate it alone",
        )
