"""A kind of loss with the results of all checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdcli.loss_contract.check import CheckResult


@dataclass(frozen=True)
class CheckedLoss:
    """A kind of loss and the results of its checks.

    Args:
        kind: name of the kind in recipes.
        points: result of each check.
    """

    kind: str
    points: tuple[CheckResult, ...]

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The results of the checks that failed."""
        return tuple(point for point in self.points if point.state == "failed")

    def to_json(self) -> dict[str, Any]:
        """An entry of `losses` in `kd losses check --json`."""
        points = [{"name": point.name, "state": point.state, "reason": point.reason} for point in self.points]
        return {"kind": self.kind, "state": "failed" if self.failed else "passed", "points": points}
