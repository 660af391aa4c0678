"""Screening of SavedModel folders: the message is read, and nothing of it is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdcli.screening.saved_model.check_operations import (
    check_everywhere,
    check_reached,
    check_restoring,
    list_unused,
)
from kdcli.screening.saved_model.constants import check_constants, check_texts
from kdcli.screening.saved_model.files import (
    COPY_FOLDER_HINT,
    MODEL_FILE,
    Contents,
    check_asset,
    check_shards,
    read_contents,
)
from kdcli.screening.saved_model.objects import Objects
from kdcli.screening.saved_model.program import Program, index_program
from kdcli.screening.saved_model.proto import parse_saved_model, source
from kdcli.screening.saved_model.reachable import Running, find_running, first_assets, has_objects, reach
from kdcli.screening.saved_model.sizes import (
    check_density,
    check_function_calls,
    check_part_counts,
    check_specifications,
    check_variables,
)
from kdcli.screening.saved_model.tables import FileNames
from kdcli.screening.verdict import Finding, Verdict

# A hostile file could hold a million of them.
_MOST = 100


def screen_saved_model(folder: Path, *, signature: str | None, tables: bool) -> Verdict:
    """Find out what a SavedModel could do, without running or loading any of it.

    What loading runs and what the chosen signature reaches may only compute: all operations there stand on a list.
    The rest of the model is told, not refused, unless loading could run it all the same.

    Args:
        folder: a private copy, so that nothing changes after it was screened.
        signature: the one that will be called; `serving_default`, or the only one, when None. All of them are
            screened where the choice is not clear.
        tables: whether lookup tables may be filled from the model's own files.
    """
    contents = read_contents(folder)
    if MODEL_FILE not in contents.files or any(finding.rule == "size" for finding in contents.findings):
        return Verdict((*contents.findings, *_missing(contents)))
    try:
        content = (folder / MODEL_FILE).read_bytes()
        if dense := tuple(check_density(content)):
            return Verdict((*contents.findings, *dense))
        meta_graphs = parse_saved_model(content).meta_graphs
        if len(meta_graphs) != 1:
            message = f"{len(meta_graphs)} graphs in one model: which of them is opened depends on who opens it"
            return Verdict((*contents.findings, Finding("meta-graphs", message)))
        found = list(_screen(meta_graphs[0], contents, signature=signature, tables=tables))
    # Numbers and names inside a damaged message lead nowhere: it is not a model then.
    except (ValueError, IndexError, KeyError, OverflowError, RecursionError):
        found = [Finding("unreadable", f"{MODEL_FILE} is damaged, it does not read", hint=COPY_FOLDER_HINT)]
    return Verdict((*contents.findings, *_once(found)))


def _missing(contents: Contents) -> Iterator[Finding]:
    if MODEL_FILE not in contents.files:
        yield Finding(
            "unreadable", f"{MODEL_FILE} is missing", hint="a SavedModel is a folder with a file of that name"
        )


def _once(findings: list[Finding]) -> list[Finding]:
    """Each finding once, and no more of them than somebody reads: what is refused comes first."""
    found = sorted(dict.fromkeys(findings), key=lambda finding: not finding.refused)
    if len(found) <= _MOST:
        return found
    more = Finding("more", f"{len(found) - _MOST:,} more findings", refused=found[_MOST].refused)
    return [*found[:_MOST], more]


def _screen(meta: Any, contents: Contents, *, signature: str | None, tables: bool) -> Iterator[Finding]:
    if many := list(check_part_counts(meta)):
        yield from many
        return
    program, objects = index_program(meta.graph_def), Objects(meta.object_graph_def)
    faults = [Finding("damaged", fault) for fault in (*program.faults, *objects.faults())]
    # What is not whole, or calls without a bound, is looked at no further.
    if unsound := faults or list(check_function_calls(program)):
        yield from unsound
        return
    yield from _run(meta, program, objects, signature=signature, tables=tables)
    yield from check_everywhere(program)
    yield from check_constants(program)
    yield from check_texts(program)
    yield from check_specifications(meta.object_graph_def, *meta.signature_def.values())
    yield from _files(meta, objects, contents)


def _run(
    meta: Any, program: Program, objects: Objects, *, signature: str | None, tables: bool
) -> Iterator[Finding]:
    running: Running = find_running(meta, signature)
    loading, called = reach(program, running.loading), reach(program, running.signature)
    restoring, saving = reach(program, running.restoring), reach(program, running.saving)
    yield from check_reached(program, loading | called, tables=tables)
    yield from check_restoring(program, restoring, prefix=meta.saver_def.filename_tensor_name)
    if tables:
        given = frozenset() if has_objects(meta) else frozenset(source(name) for name, _ in first_assets(meta))
        yield from FileNames(program, objects, running.loading, loading, given).check()
        # A call of a signature is given no assets, only what its functions captured.
        yield from FileNames(program, objects, running.signature, called).check()
    yield from list_unused(program, (loading, called, restoring, saving))


def _files(meta: Any, objects: Objects, contents: Contents) -> Iterator[Finding]:
    assets = first_assets(meta)
    for name in dict.fromkeys(name for _, name in assets):
        yield from check_asset(name, contents)
    for number in objects.asset_numbers():
        if not 0 <= number < len(meta.asset_file_def):
            yield Finding("asset", f"an object stands for asset {number} of {len(meta.asset_file_def)}")
    names = [variable.name for variable in objects.variables()]
    if names or (not has_objects(meta) and meta.saver_def.restore_op_name):
        missing = list(check_shards(contents))
        yield from missing
        if not missing:
            yield from check_variables(objects, contents)
