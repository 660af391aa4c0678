"""A kind of loss with its results for every point of the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdcli.loss_contract.check import CheckResult


@dataclass(frozen=True)
class CheckedLoss:
    """A kind and the points of the contract.

    Args:
        kind: its name in recipes.
        points: each with its state and, where it is not `passed`, the reason.
    """

    kind: str
    points: tuple[CheckResult, ...]

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The points that it breaks."""
        return tuple(point for point in self.points if point.state == "failed")

    def to_json(self) -> dict[str, Any]:
        """As `kd losses check --json` has it."""
        points = [{"name": point.name, "state": point.state, "reason": point.reason} for point in self.points]
        return {"kind": self.kind, "state": "failed" if self.failed else "passed", "points": points}
