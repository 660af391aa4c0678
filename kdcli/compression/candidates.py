"""The candidates of a search: for each family the largest student within the targets, found without training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdcli.artifacts.student_costs import (
    CandidateFile,
    ShrinkTargets,
    StudentCosts,
    TargetSearch,
    UnreachableTarget,
)
from kdcli.compression.families import Family, list_families
from kdcli.compression.request import CompressRequest
from kdcli.compression.subject import Subject
from kdcli.errors import Interrupted, KdError, ModelError, UsageError
from kdcli.evaluation.footprint import count_flops
from kdcli.evaluation.latency.subjects import POOL_EXAMPLES
from kdcli.events import Note
from kdcli.models.keras.model import save_to_bytes
from kdcli.recipe.model_sections import StudentSection
from kdcli.runs import writer
from kdcli.runs.search_directory import SearchDirectory
from kdcli.spec import ExportFormat

MOST_CANDIDATES = 12
# Without a target on cost, students with these fractions of the teacher's parameters are candidates.
_LADDER = tuple(1 / 2**power for power in range(1, 9))
_SCRATCH_BYTES = 200_000_000


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A student of a certain size.

    Args:
        name: in tables and paths.
        family: `shrunk`, `blocks`, `input`, `zoo` or `given`.
        status: `waiting` for training, `dropped` before it, `rejected` after a rung, `trained`, or `picked`.
        reason: why it was dropped or rejected.
        student: the entry `student.model` of a recipe that makes it.
        section: the section `student` of the recipe of its run.
        start: `inherited`, `fresh` or `file`.
        parameters, flops: None if unknown.
        bytes: of its untrained file in the smallest quantization that converts.
        quantize: that quantization; None for a format without.
        latency_ms: median of that file, if latency has a bound.
    """

    name: str
    family: str
    status: str = "waiting"
    reason: str | None = None
    student: dict[str, Any] | None = None
    section: dict[str, Any] | None = None
    start: str = "fresh"
    parameters: int | None = None
    flops: int | None = None
    bytes: int | None = None
    quantize: str | None = None
    latency_ms: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may still be trained."""
        return self.status == "waiting"

    def drop(self, reason: str, *, status: str = "dropped") -> Candidate:
        """The candidate, which is out."""
        return replace(self, status=status, reason=reason)

    def make_section(self) -> StudentSection:
        """The section `student` of its run."""
        return StudentSection.model_validate(self.section)


class CandidateSearch:
    """Finds the candidates of a search.

    Args:
        subject: data and teacher.
        compress: targets and format.
        latency_bound: the bound on latency in milliseconds; None if there is none.
    """

    def __init__(self, subject: Subject, compress: CompressRequest, *, latency_bound: float | None) -> None:
        self._subject, self._compress, self._latency_bound = subject, compress, latency_bound
        calibration = subject.calibration
        self._raw = calibration.take(np.arange(min(len(calibration), POOL_EXAMPLES)))

    def find(self, directory: SearchDirectory | None) -> list[Candidate]:
        """Find all candidates, write the students that inherit weights, and drop what is dominated.

        Args:
            directory: where these students go; None to write nothing.

        Raises:
            UsageError: no family has a student within the targets; the message names the nearest.
        """
        families, failures = list_families(self._subject, self._compress.students)
        found = [Candidate(name=name, family=name.split("-")[0]).drop(why) for name, why in failures.items()]
        unreachable: list[UnreachableTarget] = []
        for family, bounds, name in self._list_tasks(families):
            self._announce(name)
            try:
                found.append(self._find_one(family, bounds, name, directory))
            except UnreachableTarget as error:
                unreachable.append(error)
                found.append(Candidate(name=name, family=family.kind, start=family.start).drop(error.message))
            except KdError as error:
                found.append(Candidate(name=name, family=family.kind, start=family.start).drop(error.message))
        found = drop_dominated(found)
        if not any(candidate.is_open for candidate in found):
            raise _explain_nothing(unreachable, found)
        return _limit(found)

    def _announce(self, name: str) -> None:
        context = self._subject.request.context
        context.on_event(Note(f"candidate {name}: searching its size"))
        code = context.stop()
        if code is not None:
            raise Interrupted("stopped while searching candidates", exit_code=code)

    def _list_tasks(self, families: Sequence[Family]) -> Iterator[tuple[Family, ShrinkTargets, str]]:
        """The families with their bounds; without a target on cost, the first ones at several sizes."""
        targets = self._compress.targets
        bounds = ShrinkTargets(
            max_size_mb=targets.max_size_mb,
            max_latency_ms=self._latency_bound,
            max_mflops=targets.max_mflops,
        )
        if targets.on_cost:
            for family in families:
                yield family, bounds, family.name
            return
        parameters = self._subject.parameters or 0
        for family in families:
            steps = _LADDER if family.name == "shrunk" else _LADDER[4:6] if family.kind == "zoo" else ()
            if family.kind == "given":
                yield family, bounds, family.name
            for fraction in steps:
                limit = max(1, round(parameters * fraction))
                yield family, replace(bounds, max_params=limit), f"{family.name}-{round(1 / fraction)}x"

    def _find_one(
        self, family: Family, bounds: ShrinkTargets, name: str, directory: SearchDirectory | None
    ) -> Candidate:
        with ExitStack() as resources:
            keep, file, form, milliseconds, flops = self._search(family, bounds, resources)
        model = family.build(keep)
        start_file = None
        if model is not None and directory is not None:
            with writer.scratch_folder(_SCRATCH_BYTES) as scratch:
                start_file = directory.write_start(name, save_to_bytes(model, scratch))
        section = family.make_section(keep, start_file)
        return Candidate(
            name=name,
            family=family.kind,
            student=family.describe(keep),
            section=section.model_dump(mode="json", exclude_none=True),
            start=family.start,
            parameters=family.count_parameters(keep),
            flops=flops,
            bytes=file.bytes,
            quantize=form.variant,
            latency_ms=milliseconds,
        )

    def _search(
        self, family: Family, bounds: ShrinkTargets, resources: ExitStack
    ) -> tuple[float, CandidateFile, ExportFormat, float | None, int | None]:
        """The size, the file, its format, its latency and FLOPs, in the first quantization that converts."""
        request, failure = self._subject.request, None
        folder = resources.enter_context(writer.scratch_folder(_SCRATCH_BYTES))
        for number, form in enumerate(self._compress.forms):
            (folder / str(number)).mkdir()
            costs = StudentCosts(
                None,
                form,
                self._raw,
                folder=folder / str(number),
                resources=resources,
                threads=request.context.threads,
                seed=request.recipe.data_seed,
                latency_command=self._compress.latency_command,
            )
            search = TargetSearch(family, bounds, costs, like=family.like)
            try:
                keep = search.find()
                file = search.open_file(keep)
            except ModelError as error:
                failure = failure or error
                continue
            milliseconds = search.time(keep) if self._latency_bound is not None else None
            return keep, file, form, milliseconds, count_flops(search.wrap(keep))
        assert failure is not None
        raise failure


def drop_dominated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Drop candidates that cost at least as much as another one of the same kind and have fewer weights.

    Students that inherit weights at the full image size are of one kind; so are those of one zoo architecture.
    """

    def kind(candidate: Candidate) -> str:
        return "inherited" if candidate.family in ("shrunk", "blocks") else candidate.name

    result: list[Candidate] = []
    for number, one in enumerate(candidates):
        for position, other in enumerate(candidates):
            if number == position or not (one.is_open and other.is_open) or kind(one) != kind(other):
                continue
            if _dominates(other, one) and (not _dominates(one, other) or position < number):
                one = one.drop(f"{other.name} has as many weights or more, and costs no more")
        result.append(one)
    return result


def _dominates(one: Candidate, other: Candidate) -> bool:
    """Whether the first has at least the weights of the second, for at most its cost."""
    costs = [(one.bytes, other.bytes), (one.flops, other.flops), (one.latency_ms, other.latency_ms)]
    known = [(mine, theirs) for mine, theirs in costs if mine is not None and theirs is not None]
    return (one.parameters or 0) >= (other.parameters or 0) and all(mine <= theirs for mine, theirs in known)


def _limit(candidates: Sequence[Candidate]) -> list[Candidate]:
    """At most twelve candidates are trained: the first of the list."""
    result, count = [], 0
    for candidate in candidates:
        count += candidate.is_open
        over = candidate.is_open and count > MOST_CANDIDATES
        result.append(candidate.drop(f"at most {MOST_CANDIDATES} candidates are trained") if over else candidate)
    return result


def _explain_nothing(unreachable: Sequence[UnreachableTarget], candidates: Sequence[Candidate]) -> KdError:
    """The error where no candidate is left: the target that nothing meets, with the nearest that can be had."""
    if not unreachable:
        first = next((candidate for candidate in candidates if candidate.reason), None)
        return ModelError(
            f"no candidate can be made: {first.reason if first else 'the data suits no student'}",
            hint="--student FILE gives one",
        )
    option = unreachable[0].option
    nearest = min((error for error in unreachable if error.option == option), key=lambda error: error.value)
    return UsageError(
        f"{option} {nearest.bound:.10g}: no student meets it; the nearest has {nearest.value:.6g}",
        hint=nearest.hint,
    )
