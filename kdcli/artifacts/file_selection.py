"""Which of several files to ship: dominated files are marked, and a criterion picks one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from kdcli.errors import UsageError
from kdcli.runs.export_results import Artifact

# Criterion → a value that is smaller for a better file; None if it was not measured.
_CRITERIA: dict[str, Callable[[Artifact], float | None]] = {
    "smallest": lambda one: one.bytes,
    "fastest": lambda one: one.p50_ms,
    "best": lambda one: None if one.quality is None else -one.quality,
}


def check_pick(pick: str | None, *, latency: bool, with_data: bool) -> None:
    """Refuse an unknown criterion, and one that is not measured.

    Raises:
        UsageError: names the option.
    """
    if pick is None:
        return
    if pick not in _CRITERIA:
        raise UsageError(f"--pick must be one of {', '.join(_CRITERIA)}, got {pick!r}", hint="--pick smallest")
    if pick == "fastest" and not latency:
        raise UsageError("--pick fastest has no effect with --no-latency", hint="leave out --no-latency")
    if pick == "best" and not with_data:
        raise UsageError("--pick best has no effect without data", hint="--data D")


def mark_dominated(artifacts: Sequence[Artifact], *, passed: Collection[str]) -> tuple[Artifact, ...]:
    """Mark each file that another one dominates: no worse in bytes, latency and quality, and better in one.

    Args:
        artifacts: all files.
        passed: names of those that pass every gate; only these dominate others.
    """
    written = [one for one in artifacts if one.path is not None and one.name in passed]
    return tuple(
        replace(
            one,
            passes=one.name in passed,
            dominated_by=next((other.name for other in written if _dominates(other, one)), None),
        )
        for one in artifacts
    )


def _dominates(one: Artifact, other: Artifact) -> bool:
    if one is other or other.path is None:
        return False
    pairs = [(measure(one), measure(other)) for measure in _CRITERIA.values()]
    if any(value is None for pair in pairs for value in pair):
        return False
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return all(a <= b for a, b in known) and any(a < b for a, b in known)


def pick_file(artifacts: Sequence[Artifact], pick: str | None) -> Artifact | None:
    """The best passing file by a criterion, the smaller of equal ones; None without a criterion or such a file."""
    if pick is None:
        return None
    measure = _CRITERIA[pick]
    found = [one for one in artifacts if one.path is not None and one.passes and measure(one) is not None]
    return min(found, key=lambda one: (measure(one), one.bytes)) if found else None
