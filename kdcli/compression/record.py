"""The record of a search: everything that was measured and decided, written before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kdcli.compression.candidates import Candidate
from kdcli.compression.rungs import Standing
from kdcli.compression.schedule import Costs, SearchSchedule
from kdcli.runs.search_directory import SearchDirectory

# Stands between the name of a candidate and the seed of a further repeat.
_SEED = "-seed-"


@dataclass(kw_only=True)
class SearchRecord:
    """A search as `search.json` stores it.

    Args:
        requested: targets, settings and recipe of the command.
        inputs: sha256 of every model file.
        metric: its name.
        max_drop: the bound on its drop; None without one.
        allowed_drop: by how much a preferred candidate may be worse than the teacher on the validation split.
        latency_bound_ms: the bound on the latency; None without one.
        costs: measured seconds.
        schedule: what is trained, for how long.
        candidates: all of them, by name.
        rungs: what was decided after each rung.
        repeats: the metric of each seed of the preferred candidate, on the validation split.
        widened: candidates that were trained to the end because no smaller file was good enough.
        latencies: of the files that were timed, by name.
        findings: sentences for the plan and the report.
        seconds: by phase.
    """

    requested: dict[str, Any]
    inputs: dict[str, str]
    metric: str
    max_drop: float | None
    allowed_drop: float | None
    latency_bound_ms: float | None
    costs: Costs
    schedule: SearchSchedule
    candidates: dict[str, Candidate]
    rungs: list[Rung] = field(default_factory=list)
    repeats: dict[str, float] = field(default_factory=dict)
    widened: list[str] = field(default_factory=list)
    latencies: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: SearchDirectory) -> SearchRecord | None:
        """Read the record of a directory; None before there is one."""
        values = directory.read_record()
        if not values:
            return None
        del values["schema"]
        values["costs"] = Costs(**values["costs"])
        values["schedule"] = SearchSchedule.from_json(values["schedule"])
        values["candidates"] = {one["name"]: Candidate(**one) for one in values["candidates"]}
        values["rungs"] = [Rung.from_json(one) for one in values["rungs"]]
        return cls(**values)

    def split_repeat(self, name: str) -> tuple[str, int | None]:
        """The candidate and the seed of a repeat; None for the seed of the search."""
        if name in self.candidates:
            return name, None
        base, _, seed = name.rpartition(_SEED)
        return base, int(seed)

    def write(self, directory: SearchDirectory) -> None:
        """Write the record."""
        values = {**asdict(self), "candidates": [asdict(one) for one in self.candidates.values()]}
        directory.write_record({"schema": "kd.search/1", **values})


@dataclass(frozen=True)
class Rung:
    """What was decided after a rung.

    Args:
        step: to which candidates were trained.
        standings: in the order of preference.
        survivors: names of the candidates that go on; after the last rung, all.
        failed: why a training failed, by candidate.
    """

    step: int
    standings: tuple[Standing, ...]
    survivors: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Rung:
        """Read an entry of a record."""
        standings = tuple(Standing(**one) for one in values["standings"])
        return cls(values["step"], standings, tuple(values["survivors"]), values["failed"])

    def to_json(self) -> dict[str, Any]:
        """The entry of a document."""
        return asdict(self)


def name_repeat(name: str, seed: int) -> str:
    """The name of a further repeat of a candidate; `SearchRecord.split_repeat` reads it."""
    return f"{name}{_SEED}{seed}"


def list_open(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that may be trained."""
    return [one for one in candidates if one.is_open]
