"""Screening of SavedModel folders: parses the model without running any of it, then applies all rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdcli.screening.saved_model.constants import check_constants, check_specifications, check_texts
from kdcli.screening.saved_model.files import (
    COPY_FOLDER_HINT,
    MODEL_FILE,
    Contents,
    check_asset,
    check_shards,
    read_contents,
)
from kdcli.screening.saved_model.objects import Objects
from kdcli.screening.saved_model.operation_checks import (
    check_everywhere,
    check_reachable,
    check_restoring,
    list_unused,
)
from kdcli.screening.saved_model.program import Program, index_program
from kdcli.screening.saved_model.proto import parse_message, source_name
from kdcli.screening.saved_model.reachability import asset_tensors, find_reachable, find_roots, has_objects
from kdcli.screening.saved_model.sizes import (
    check_density,
    check_function_calls,
    check_part_counts,
    check_variables,
)
from kdcli.screening.saved_model.tables import TableFiles
from kdcli.screening.verdict import MAX_FINDINGS, Finding, Verdict


def screen_saved_model(folder: Path, *, signature: str | None, tables: bool) -> Verdict:
    """Screen a SavedModel without running or loading any of it.

    Everything that loading and the chosen signature can run must only compute: its operations are on a list. Other
    operations in the model are reported, but only refused if loading could run them too.

    Args:
        folder: a private copy, so that nothing changes after the screening.
        signature: the signature that will be called; `serving_default`, or the only one, if None. All signatures
            are screened if the choice is ambiguous.
        tables: whether lookup tables may be filled from the model's own files.
    """
    contents = read_contents(folder)
    findings = list(contents.findings)
    if MODEL_FILE not in contents.files:
        hint = "a SavedModel is a folder with a file of that name"
        findings.append(Finding("unreadable", f"{MODEL_FILE} is missing", hint=hint))
    elif all(finding.rule != "size" for finding in findings):
        content = (folder / MODEL_FILE).read_bytes()
        findings += _check_message(content, contents, signature=signature, tables=tables)
    return Verdict(tuple(findings))


def _check_message(content: bytes, contents: Contents, *, signature: str | None, tables: bool) -> list[Finding]:
    try:
        if dense := list(check_density(content)):
            return dense
        meta_graphs = parse_message("SavedModel", content).meta_graphs
        if len(meta_graphs) != 1:
            return [Finding("meta-graphs", f"the model has {len(meta_graphs)} meta graphs (expected 1)")]
        return _limit(_check_meta_graph(meta_graphs[0], contents, signature=signature, tables=tables))
    # What a damaged message raises where its numbers and names refer to something that does not exist.
    except (ValueError, IndexError, KeyError, OverflowError, RecursionError):
        return [Finding("unreadable", f"{MODEL_FILE} is damaged", hint=COPY_FOLDER_HINT)]


def _limit(findings: Iterator[Finding]) -> list[Finding]:
    """Each finding once, refused ones first, and not too many of them."""
    found = sorted(dict.fromkeys(findings), key=lambda finding: not finding.refused)
    if len(found) <= MAX_FINDINGS:
        return found
    more = Finding("more", f"{len(found) - MAX_FINDINGS:,} more findings", refused=found[MAX_FINDINGS].refused)
    return [*found[:MAX_FINDINGS], more]


def _check_meta_graph(meta: Any, contents: Contents, *, signature: str | None, tables: bool) -> Iterator[Finding]:
    if excess := list(check_part_counts(meta)):
        yield from excess
        return
    program, objects = index_program(meta.graph_def), Objects(meta.object_graph_def)
    faults = [Finding("damaged", fault) for fault in (*program.faults, *objects.faults())]
    # The other checks need a consistent model without endless calls.
    if unsound := faults or list(check_function_calls(program)):
        yield from unsound
        return
    yield from _check_running(meta, program, objects, signature=signature, tables=tables)
    yield from check_everywhere(program)
    yield from check_constants(program)
    yield from check_texts(program)
    yield from check_specifications(meta.object_graph_def, *meta.signature_def.values())
    yield from _check_files(meta, objects, contents)


def _check_running(
    meta: Any, program: Program, objects: Objects, *, signature: str | None, tables: bool
) -> Iterator[Finding]:
    roots = find_roots(meta, signature)
    loading, called = find_reachable(program, roots.loading), find_reachable(program, roots.signature)
    restoring, saving = find_reachable(program, roots.restoring), find_reachable(program, roots.saving)
    yield from check_reachable(program, loading | called, tables=tables)
    yield from check_restoring(program, restoring, prefix=meta.saver_def.filename_tensor_name)
    if tables:
        assets = () if has_objects(meta) else (source_name(name) for name, _ in asset_tensors(meta))
        files = TableFiles(program, objects, roots=roots.loading, reachable=loading, assets=frozenset(assets))
        yield from files.check()
        # A call of a signature receives no assets, except for those that its functions capture.
        yield from TableFiles(program, objects, roots=roots.signature, reachable=called).check()
    yield from list_unused(program, (loading, called, restoring, saving))


def _check_files(meta: Any, objects: Objects, contents: Contents) -> Iterator[Finding]:
    for name in dict.fromkeys(name for _, name in asset_tensors(meta)):
        yield from check_asset(name, contents)
    for number in objects.asset_numbers():
        if not 0 <= number < len(meta.asset_file_def):
            yield Finding("asset", f"an object refers to asset {number} of {len(meta.asset_file_def)}")
    has_variables = next(objects.variables(), None) is not None
    if has_variables or (not has_objects(meta) and meta.saver_def.restore_op_name):
        missing = list(check_shards(contents))
        yield from missing
        if not missing:
            yield from check_variables(objects, contents)
