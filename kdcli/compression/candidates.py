"""The candidates of a search: for each family the largest student within the targets, found without training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcli.artifacts.student_costs import (
    CandidateFile,
    ShrinkTargets,
    StudentCosts,
    TargetSearch,
    UnreachableTarget,
)
from kdcli.compression.families import Family, list_families
from kdcli.compression.request import BUDGET_SECONDS, CompressRequest
from kdcli.compression.subject import SearchSubject
from kdcli.compression.teacher_latency import LatencyBound
from kdcli.errors import Interrupted, KdError, LatencyCommandError, ModelError, UsageError
from kdcli.evaluation.footprint import count_flops
from kdcli.events import Note
from kdcli.models.keras.model import save_to_bytes
from kdcli.models.keras.network import KerasNetwork
from kdcli.recipe.model_sections import StudentSection
from kdcli.runs import writer
from kdcli.runs.search_directory import SearchDirectory
from kdcli.shrinking.search import find_largest
from kdcli.spec import ExportFormat
from kdcli.tensors import KerasModel
from kdcli.zoo import File

MOST_CANDIDATES = 12
# Without a target on cost, students with these fractions of the teacher's parameters are candidates; those in the
# middle come first, because a small budget trains only the first ones.
_LADDER = tuple(1 / 2**power for power in (3, 5, 1, 7, 2, 4, 6, 8))
_ZOO_LADDER = (1 / 32, 1 / 64)
_SCRATCH_BYTES = 200_000_000
# The part of the budget after which no further sizes are searched for.
_SEARCH_PART = 0.2
_NO_TIME = "the budget is too small to find its size"
# A student with less than this fraction of the teacher's parameters is also shrunk in two steps.
_IN_STEPS_BELOW = 0.5


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A student of a certain size.

    Args:
        name: in tables and paths.
        family: `shrunk`, `steps`, `blocks`, `input`, `zoo` or `given`.
        status: `waiting` for training, or `dropped` before it.
        reason: why it was dropped or rejected.
        student: the entry `student.model` of a recipe that makes it.
        section: the section `student` of the recipe of its run.
        start: `inherited`, `fresh` or `file`.
        parameters, flops: None if unknown.
        bytes: of its untrained file in the smallest quantization that converts.
        quantize: that quantization; None for a format without.
        latency_ms: median of that file, if latency has a bound.
        keep: fraction of the teacher's channels, for a student that is shrunk in two steps.
        larger: the section `student` of the larger student that is trained before it is shrunk to this one.
        larger_flops: of that student.
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
    keep: float | None = None
    larger: dict[str, Any] | None = None
    larger_flops: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may still be trained."""
        return self.status == "waiting"

    def drop(self, reason: str) -> Candidate:
        """The candidate, marked as dropped for a reason."""
        return replace(self, status="dropped", reason=reason)

    def make_section(self, root: Path) -> StudentSection:
        """The section `student` of its run.

        Args:
            root: directory of the search, to which the path of a student that `kd` wrote is relative.
        """
        section = StudentSection.model_validate(self.section)
        if self.start != "inherited" or not isinstance(section.model, File):
            return section
        return section.model_copy(update={"model": File(path=str(root / section.model.path))})

    def make_larger(self) -> Candidate:
        """The larger student that is trained before."""
        return replace(self, section=self.larger, larger=None)


class CandidateSearch:
    """Finds the candidates of a search.

    Args:
        subject: data and teacher.
        compress: targets and format.
        latency: the bound on latency in milliseconds, and the teacher's.
    """

    def __init__(self, subject: SearchSubject, compress: CompressRequest, *, latency: LatencyBound) -> None:
        self._subject, self._compress, self._latency = subject, compress, latency

    def find(self, directory: SearchDirectory | None) -> list[Candidate]:
        """Find all candidates, write the students that inherit weights, and drop what is dominated.

        Args:
            directory: where these students go; None to write nothing.

        Raises:
            UsageError: no family has a student within the targets; the message names the nearest.
        """
        began, limit = time.perf_counter(), _SEARCH_PART * (self._compress.budget or BUDGET_SECONDS)
        found: list[Candidate] = []
        unreachable: list[UnreachableTarget] = []

        def is_late() -> bool:
            return time.perf_counter() - began > limit and any(one.is_open for one in found)

        planned = list_families(
            self._subject, self._compress.students, at_several_sizes=not self._compress.targets.on_cost
        )
        for plan in planned:
            missing = Candidate(name=plan.name, family=plan.kind, start=plan.start)
            if is_late():
                found.append(missing.drop(_NO_TIME))
                continue
            self._announce(plan.name)
            try:
                family = plan.make()
            except KdError as error:
                found.append(missing.drop(error.message))
                continue
            for bounds, name in self._list_sizes(family):
                missing = replace(missing, name=name)
                if is_late():
                    found.append(missing.drop(_NO_TIME))
                    continue
                if name != plan.name:
                    self._announce(name)
                try:
                    found += self._find_one(family, bounds, name, directory)
                except UnreachableTarget as error:
                    unreachable.append(self._name_target(error))
                    found.append(missing.drop(_explain_family(unreachable[-1])))
                except LatencyCommandError:
                    raise
                except (ModelError, UsageError) as error:
                    found.append(missing.drop(error.message))
        found = drop_dominated(found)
        if not any(candidate.is_open for candidate in found):
            raise _explain_nothing(unreachable, found)
        return _limit(found)

    def _name_target(self, error: UnreachableTarget) -> UnreachableTarget:
        """The error in terms of the option that the user gave: of the ratio, or of the flash."""
        targets, latency = self._compress.targets, self._latency
        if (
            error.option == "--max-size-mb"
            and targets.max_flash_kb is not None
            and error.bound != targets.max_size_mb
        ):
            return UnreachableTarget("--max-flash-kb", targets.max_flash_kb, error.value * 1e6 / 1024)
        in_time = targets.max_latency_ms is None or error.value <= targets.max_latency_ms
        if error.option != "--max-latency-ms" or targets.max_latency_ratio is None or not in_time:
            return error
        assert latency.teacher_ms is not None
        value = error.value / latency.teacher_ms
        return UnreachableTarget("--max-latency-ratio", targets.max_latency_ratio, value)

    def _announce(self, name: str) -> None:
        context = self._subject.request.context
        context.on_event(Note(f"candidate {name}: finding its size"))
        code = context.stop()
        if code is not None:
            raise Interrupted("stopped while searching for candidates", exit_code=code)

    def _list_sizes(self, family: Family) -> Iterator[tuple[ShrinkTargets, str]]:
        """The bounds and the name of each candidate: one, or several sizes without a target on cost."""
        targets = self._compress.targets
        bounds = ShrinkTargets(
            max_size_mb=targets.largest_mb,
            max_latency_ms=self._latency.milliseconds,
            max_mflops=targets.max_mflops,
        )
        if targets.on_cost or family.kind == "given":
            yield bounds, family.name
            return
        network, parameters = self._subject.network, self._subject.parameters
        if network is not None:
            parameters = network.parameters
        # A teacher of unknown size: the largest student of the family stands for it.
        largest = parameters or family.count_parameters(1.0)
        for fraction in _LADDER if family.kind == "shrunk" else _ZOO_LADDER:
            limit = max(1, round(largest * fraction))
            yield replace(bounds, max_params=limit), f"{family.name}-{round(1 / fraction)}x"

    def _find_one(
        self, family: Family, bounds: ShrinkTargets, name: str, directory: SearchDirectory | None
    ) -> list[Candidate]:
        """The largest student within the bounds, and the same one shrunk in two steps."""
        with ExitStack() as resources:
            keep, file, form, milliseconds, flops = self._search(family, bounds, resources)
        model = family.build(keep)
        start_file = None if model is None or directory is None else _write(directory, name, model)
        section = family.make_section(keep, start_file)
        candidate = Candidate(
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
        in_steps = self._find_in_two_steps(family, keep, candidate, directory) if name == "shrunk" else []
        return [candidate, *in_steps]

    def _find_in_two_steps(
        self, family: Family, keep: float, candidate: Candidate, directory: SearchDirectory | None
    ) -> list[Candidate]:
        """The same student, shrunk again after a larger one was trained; only where more than half is removed."""
        before, after = self._subject.first.parameters or 0, candidate.parameters or 0
        if after > _IN_STEPS_BELOW * before:
            return []
        # The same factor in both steps.
        between = math.sqrt(before * after)
        larger_keep = find_largest(
            lambda one: family.count_parameters(one) <= between,
            explain=lambda one: UsageError("a student of this size has no smaller one"),
        )
        name, larger_file, start_file = f"{candidate.name}-steps", None, None
        if directory is not None:
            larger_file = _write(directory, name, family.build(larger_keep), larger=True)
            start_file = directory.start_of(name).relative_to(directory.path)
        sections = family.make_section(keep, start_file), family.make_section(larger_keep, larger_file)
        section, larger = (one.model_dump(mode="json", exclude_none=True) for one in sections)
        flops = count_flops(_wrap(family, larger_keep))
        changed = {"section": section, "larger": larger, "larger_flops": flops}
        return [replace(candidate, name=name, family="steps", keep=keep, **changed)]  # type: ignore[arg-type]

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
                self._subject.timed_examples,
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
            except LatencyCommandError:
                raise
            except ModelError as error:
                failure = failure or error
                continue
            milliseconds = search.time(keep) if self._latency.milliseconds is not None else None
            return keep, file, form, milliseconds, count_flops(search.wrap(keep))
        assert failure is not None
        raise failure


def _write(directory: SearchDirectory, name: str, model: KerasModel, *, larger: bool = False) -> Path:
    with writer.scratch_folder(_SCRATCH_BYTES) as scratch:
        path = directory.write_start(name, save_to_bytes(model, scratch), larger=larger)
    return path.relative_to(directory.path)


def _wrap(family: Family, keep: float) -> KerasNetwork:
    like = family.like
    name = like.output_name if len(like.all_outputs) > 1 else None
    network = KerasNetwork(family.assemble(keep), name=family.name, output=name)
    return network.with_preprocessing(like.preprocessing).with_outputs_like(like)


def drop_dominated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Drop candidates that cost at least as much as another one of the same kind and have fewer parameters.

    Students that inherit weights at the full image size are of one kind; others are not compared with each other.
    """

    def kind(candidate: Candidate) -> str:
        return "inherited" if candidate.family in ("shrunk", "blocks") else candidate.name

    result: list[Candidate] = []
    for number, one in enumerate(candidates):
        for position, other in enumerate(candidates):
            if number == position or not (one.is_open and other.is_open) or kind(one) != kind(other):
                continue
            if _dominates(other, one) and (not _dominates(one, other) or position < number):
                one = one.drop(f"dominated by {other.name}: at least as many parameters at no higher cost")
        result.append(one)
    return result


def _dominates(one: Candidate, other: Candidate) -> bool:
    """Whether the first has at least the parameters of the second, for at most its cost."""
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


def _explain_family(error: UnreachableTarget) -> str:
    """Why a family has no student within a bound; the bound on parameters is one that the user did not give."""
    if error.option == "--max-params":
        return f"no student of this family has {error.bound:,.0f} parameters or fewer"
    return error.message


def _explain_nothing(unreachable: Sequence[UnreachableTarget], candidates: Sequence[Candidate]) -> KdError:
    """The error where no candidate is left: the target that nothing meets, with the nearest that can be had."""
    if not unreachable:
        first = next((candidate for candidate in candidates if candidate.reason), None)
        return ModelError(
            f"no candidate could be made: {first.reason if first else 'no student fits the data'}",
            hint="--student FILE",
        )
    option = unreachable[0].option
    return min((error for error in unreachable if error.option == option), key=lambda error: error.value)
