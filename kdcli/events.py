"""The events that a command reports while it runs. The library never prints: the caller decides what to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Note:
    """One sentence for the user.

    Args:
        text: the sentence.
        warning: whether something may be wrong.
    """

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Planned:
    """The plan is complete: everything is opened and resolved, and training starts next.

    Args:
        plan: a `kdcli.runs.results.Plan`.
    """

    plan: Any


@dataclass(frozen=True)
class Progress:
    """How far a phase has come.

    Args:
        phase: `teacher` (computing its outputs), `training`, `evaluation` or `latency`.
        done: number of units finished so far.
        total: number of units in the phase.
        unit: what is counted, such as `steps` or `examples`.
        epoch: current epoch, from 1; None outside of training.
        epochs: number of epochs; None outside of training.
        metrics: loss terms and rates by name.
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
    """An epoch has ended.

    Args:
        epoch: the epoch, from 1.
        epochs: number of epochs.
        metrics: its line of `metrics.jsonl`.
        best: whether it is the best epoch so far.
    """

    epoch: int
    epochs: int
    metrics: dict[str, Any]
    best: bool


Event = Note | Planned | Progress | EpochEnded
OnEvent = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """The default listener: does nothing."""
