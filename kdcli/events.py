"""What a workflow tells while it works. The library never prints: whoever called decides what to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Note:
    """One sentence that a person wants to read; a warning when something may be wrong."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Planned:
    """The plan is made: everything is opened and resolved, training comes next. `plan` is `results.Plan`."""

    plan: Any


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Args:
        stage: `teacher` (answering), `training`, `evaluation`, `latency`.
        done: examples or steps so far.
        total: of how many.
        figures: loss terms and rates by name.
    """

    phase: str
    done: int
    total: int
    unit: str = "steps"
    epoch: int | None = None
    epochs: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochEnded:
    """An epoch is over; `figures` is its line of `metrics.jsonl`."""

    epoch: int
    epochs: int
    metrics: dict[str, Any]
    best: bool


Event = Note | Planned | Progress | EpochEnded
OnEvent = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """The listener of somebody who does not listen."""
