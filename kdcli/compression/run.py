"""Run a search: plan, rungs, finish. Everything is written before it is used, so that it can stop at any time."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from kdcli.compression.candidate_runs import CandidateRuns
from kdcli.compression.defaults import drop_label_losses
from kdcli.compression.finish import Finish, train_repeats
from kdcli.compression.record import Rung, SearchRecord
from kdcli.compression.report import describe_candidates, describe_teacher, read_compression
from kdcli.compression.request import CompressRequest
from kdcli.compression.rungs import choose_survivors, rank
from kdcli.compression.search_plan import apply_schedule, hash_inputs, plan_search
from kdcli.compression.subject import SearchSubject, open_subject
from kdcli.data.dataset import fingerprint_dataset
from kdcli.errors import Interrupted, UsageError
from kdcli.events import Note
from kdcli.models.custom_code import attribute_errors
from kdcli.runs.compression_results import Compression, CompressionPlan
from kdcli.runs.search_directory import SearchDirectory
from kdcli.setup.run_location import input_paths, open_data
from kdcli.setup.startup import start_tensorflow


def run_compression(compress: CompressRequest) -> Compression | CompressionPlan:
    """Search for the file that meets the targets; with `dry_run`, only make a plan.

    Raises:
        KdError: any expected error.
    """
    request, began = compress.request, time.perf_counter()
    directory = SearchDirectory.find(request.out, request.name, resume=request.resume, overwrite=request.overwrite)
    identity = SearchIdentity(compress.describe(), hash_inputs(compress))
    record = SearchRecord.read(directory) if request.resume else None
    if record is not None:
        identity.refuse_other(record, directory)
    start_tensorflow(threads=request.context.threads, seed=request.recipe.train.seed, code=request.code)
    with attribute_errors(request.code):
        identity = identity.with_data(fingerprint_dataset(open_data(request)))
        if record is not None:
            identity.refuse_other(record, directory)
        finished = read_compression(directory) if record is not None else None
        if finished is not None:
            return finished
        compress = replace(compress, request=drop_label_losses(request))
        subject = open_subject(compress)
        if request.context.dry_run:
            return _plan(subject, compress, directory, identity, began=began)
        try:
            return _search(subject, compress, directory, identity, began=began)
        except Interrupted as interrupted:
            interrupted.run = directory.path
            raise


@dataclass(frozen=True)
class SearchIdentity:
    """What must be equal in a search that is resumed or shared.

    Args:
        requested: targets, settings and recipe.
        inputs: sha256 of models, code and data.
    """

    requested: dict[str, Any]
    inputs: dict[str, str]

    def with_data(self, fingerprint: str) -> SearchIdentity:
        """With the fingerprint of the data."""
        return replace(self, inputs={**self.inputs, "data": fingerprint})

    def refuse_other(self, record: SearchRecord, directory: SearchDirectory) -> None:
        """Refuse a record of other targets, settings or inputs.

        Raises:
            UsageError: naming the first difference.
        """
        hint = "give the same options again, or another --out"
        for name, value in self.requested.items():
            before = record.requested.get(name)
            if value != before:
                difference = f"{name}: {_format(before)} (requested: {_format(value)})"
                if name == "recipe":
                    difference = "the recipe, the seed or an option that sets it"
                message = f"{directory.path} holds a search with different settings: {difference}"
                raise UsageError(message, hint=hint)
        for name, digest in self.inputs.items():
            if digest != record.inputs.get(name):
                what = name.split(".")[0]
                raise UsageError(f"{directory.path} holds a search with a different {what}", hint=hint)


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={one}" for name, one in value.items()) or "none"
    return "not set" if value is None or value == [] else str(value)


def _plan(
    subject: SearchSubject,
    compress: CompressRequest,
    directory: SearchDirectory,
    identity: SearchIdentity,
    *,
    began: float,
) -> CompressionPlan:
    record = plan_search(
        subject, compress, directory, requested=identity.requested, inputs=identity.inputs, began=began
    )
    return CompressionPlan(
        teacher=describe_teacher(subject),
        targets={**compress.targets.to_json(), "max_drop": record.max_drop},
        candidates=tuple(describe_candidates(record)),
        schedule=record.schedule.to_json(),
        findings=tuple(record.findings),
    )


def _search(
    subject: SearchSubject,
    compress: CompressRequest,
    directory: SearchDirectory,
    identity: SearchIdentity,
    *,
    began: float,
) -> Compression:
    """Plan, train and finish; several processes may do so at a time, and each step is decided by one of them."""
    request, stop = subject.request, subject.request.context.stop
    directory.open(inputs=[*input_paths(request.recipe), *compress.students, *request.code])
    with directory.hold_lock(stop):
        record = SearchRecord.read(directory)
        if record is not None:
            # Another process may have planned it before.
            identity.refuse_other(record, directory)
        else:
            record = plan_search(
                subject, compress, directory, requested=identity.requested, inputs=identity.inputs, began=began
            )
            record.write(directory)
    runs = CandidateRuns(apply_schedule(subject, compress, record.schedule), directory, record.schedule)
    names = record.schedule.candidates
    for number in range(1, len(record.schedule.rungs) + 1):
        record = _climb(runs, compress, record, number, names)
        names = record.rungs[number - 1].survivors
    train_repeats(runs, compress, record)
    with directory.hold_lock(stop):
        finished, record = read_compression(directory), SearchRecord.read(directory) or record
        return finished or Finish(runs, compress, record, began=began).run(record.rungs[-1].standings)


def _climb(
    runs: CandidateRuns, compress: CompressRequest, record: SearchRecord, number: int, names: tuple[str, ...]
) -> SearchRecord:
    """Train candidates to a rung, decide who goes on, and write it; a decision that is written stands."""
    if len(record.rungs) < number:
        outputs = runs.train([record.candidates[name] for name in names], number)
        with runs.directory.hold_lock(runs.subject.request.context.stop):
            record = SearchRecord.read(runs.directory) or record
            if len(record.rungs) < number:
                step, smallest = record.schedule.rungs[number - 1], not compress.targets.on_cost
                standings = rank(
                    outputs,
                    {name: record.candidates[name].bytes or 0 for name in outputs},
                    runs.subject.metric,
                    max_drop=record.allowed_drop,
                    smallest=smallest,
                    progress=step / record.schedule.steps,
                )
                is_last = number == len(record.schedule.rungs)
                chosen = standings if is_last else choose_survivors(standings, smallest=smallest)
                survivors = tuple(one.name for one in chosen)
                record.rungs.append(Rung(step, tuple(standings), survivors, dict(runs.failed)))
                record.write(runs.directory)
    _announce(runs.subject, number, record.rungs[number - 1])
    return record


def _announce(subject: SearchSubject, number: int, rung: Rung) -> None:
    for one in rung.standings:
        goes = "" if one.name in rung.survivors else ", rejected"
        text = f"rung {number}: {one.name}: {subject.metric.name} {one.value:.4f}{goes}"
        subject.request.context.on_event(Note(text))
