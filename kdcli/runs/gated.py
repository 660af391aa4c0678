"""Frozen verdicts of gates."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class GateResult:
    """One gate on one model.

    Args:
        name: the figure.
        value: what was measured; None where nothing was, or where it is NaN.
        bound: `>= 0.97`.
        state: `passed`, `failed` or `inconclusive`.
        model: its path, or its name in a comparison.
        reason: why it is inconclusive or could not be measured, for people.
    """

    name: str
    value: float | None
    bound: str
    state: Literal["passed", "failed", "inconclusive"]
    model: str
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """An entry of `gates` in a document."""
        values = asdict(self)
        return {name: values[name] for name in ("name", "value", "bound", "state", "model")}
