"""The frozen results of gates and their JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class GateResult:
    """One gate on one model.

    Args:
        name: the metric.
        value: measured value; None if it was not measured, or is NaN.
        bound: the bound, such as `>= 0.97`.
        state: `passed`, `failed` or `inconclusive`.
        model: the measured file; in a comparison, the name of the arm if the value is a mean over several files.
        reason: why the gate is inconclusive or could not be measured, for messages.
        files: in a comparison, the measured files.
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
