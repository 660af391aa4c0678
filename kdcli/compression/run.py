"""Run a search: plan, rungs, finish. Everything is written before it is used, so that it can stop at any time."""

from __future__ import annotations

import time
from dataclasses import replace

from kdcli.compression.candidate_runs import CandidateRuns
from kdcli.compression.defaults import drop_label_losses
from kdcli.compression.finish import Finish
from kdcli.compression.record import Rung, SearchRecord
from kdcli.compression.report import describe_candidates, describe_teacher, read_compression
from kdcli.compression.request import CompressRequest
from kdcli.compression.rungs import choose_survivors, rank
from kdcli.compression.search_plan import apply_schedule, hash_inputs, plan_search
from kdcli.compression.subject import Subject, open_subject
from kdcli.errors import Interrupted, UsageError
from kdcli.events import Note
from kdcli.models.custom_code import attribute_errors
from kdcli.runs.compression_results import Compression, CompressionPlan
from kdcli.runs.search_directory import SearchDirectory
from kdcli.setup.run_location import input_paths
from kdcli.setup.startup import start_tensorflow


def run_compression(compress: CompressRequest) -> Compression | CompressionPlan:
    """Search the file that meets the targets; with `dry_run`, only make a plan.

    Raises:
        KdError: any expected error.
    """
    request, began = compress.request, time.perf_counter()
    directory = SearchDirectory.find(request.out, request.name, resume=request.resume, overwrite=request.overwrite)
    record = SearchRecord.read(directory) if request.resume else None
    if record is not None:
        _refuse_other_search(compress, record, directory)
        finished = read_compression(directory)
        if finished is not None:
            return finished
    start_tensorflow(threads=request.context.threads, seed=request.recipe.train.seed, code=request.code)
    with attribute_errors(request.code):
        compress = replace(compress, request=drop_label_losses(request))
        subject = open_subject(compress)
        if request.context.dry_run:
            return _plan(subject, compress, directory, began=began)
        try:
            return _search(subject, compress, directory, began=began)
        except Interrupted as interrupted:
            interrupted.run = directory.path
            raise


def _refuse_other_search(compress: CompressRequest, record: SearchRecord, directory: SearchDirectory) -> None:
    """Refuse to resume with other targets, settings or inputs.

    Raises:
        UsageError: naming the first difference.
    """
    now, before, found = compress.describe(), record.requested, hash_inputs(compress)
    hint = "give the same options again, or another --out"
    for name in now:
        if now[name] != before.get(name):
            difference = f"{name} is {before.get(name)} (requested: {now[name]})"
            if name == "recipe":
                difference = "the recipe, the seed or another setting differs"
            raise UsageError(f"{directory.path} holds a search with other settings: {difference}", hint=hint)
    for name, digest in found.items():
        if digest != record.inputs.get(name):
            raise UsageError(f"{directory.path} holds a search for another {name.split('.')[0]}", hint=hint)


def _plan(
    subject: Subject, compress: CompressRequest, directory: SearchDirectory, *, began: float
) -> CompressionPlan:
    record = plan_search(subject, compress, directory, began=began)
    return CompressionPlan(
        teacher=describe_teacher(subject),
        targets={**compress.targets.to_json(), "max_drop": record.max_drop},
        candidates=tuple(describe_candidates(record)),
        schedule=record.schedule.to_json(),
        findings=tuple(record.findings),
    )


def _search(
    subject: Subject, compress: CompressRequest, directory: SearchDirectory, *, began: float
) -> Compression:
    """Plan, train and finish; several processes may do so at a time, and each step is decided by one of them."""
    stop = subject.request.context.stop
    directory.open(inputs=input_paths(compress.request.recipe))
    with directory.hold_lock(stop):
        record = SearchRecord.read(directory)
        if record is None:
            record = plan_search(subject, compress, directory, began=began)
            record.write(directory)
    runs = CandidateRuns(apply_schedule(subject, compress, record.schedule), directory, record.schedule)
    names = record.schedule.candidates
    for number in range(1, len(record.schedule.rungs) + 1):
        record = _climb(runs, compress, record, number, names)
        names = record.rungs[number - 1].survivors
    with directory.hold_lock(stop):
        finished = read_compression(directory)
        return finished or Finish(runs, compress, record, began=began).run(record.rungs[-1].standings)


def _climb(
    runs: CandidateRuns, compress: CompressRequest, record: SearchRecord, number: int, names: tuple[str, ...]
) -> SearchRecord:
    """Train candidates to a rung, decide who goes on, and write it; a decision that is written stands."""
    if len(record.rungs) < number:
        logits = runs.train([record.candidates[name] for name in names], number)
        with runs.directory.hold_lock(runs.subject.request.context.stop):
            record = SearchRecord.read(runs.directory) or record
            if len(record.rungs) < number:
                step, smallest = record.schedule.rungs[number - 1], not compress.targets.on_cost
                standings = rank(
                    logits,
                    {name: record.candidates[name].bytes or 0 for name in logits},
                    runs.subject.metric,
                    max_drop=record.max_drop,
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


def _announce(subject: Subject, number: int, rung: Rung) -> None:
    for one in rung.standings:
        goes = "" if one.name in rung.survivors else ", goes no further"
        text = f"rung {number}: {one.name}: {subject.metric.name} {one.value:.4f}{goes}"
        subject.request.context.on_event(Note(text))
