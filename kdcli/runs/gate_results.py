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
        model: the file that was measured; in a comparison the arm's name where it is a mean over several files.
        reason: why it is inconclusive or could not be measured, for people.
        files: in a comparison the files that were measured.
    """

    name: str
    value: float | None
    bound: str
    state: Literal["passed", "failed", "inconclusive"]
    model: str
    reason: str = ""
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """An entry of `gates` in a document."""
        values = asdict(self)
        document = {name: values[name] for name in ("name", "value", "bound", "state", "model")}
        return document | {"files": list(self.files)} if self.files else document
