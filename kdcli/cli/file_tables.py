"""The table of the 8-bit files of a student beside its float32 file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcli.cli.console import Table


def format_files(document: dict[str, Any]) -> list[Any]:
    """The table of the files, and which one was written."""
    return [_make_table(document), f"{document['path']}: {document['picked']}"]


def _make_table(document: dict[str, Any]) -> Table:
    from kdcli.cli.console import make_table

    rows = []
    for file in document["files"]:
        interval = "" if file["low"] is None else f" [{file['low']:.4f}, {file['high']:.4f}]"
        drop = f"{file['drop']['value']:+.4f} [{file['drop']['low']:+.4f}, {file['drop']['high']:+.4f}]"
        test = "" if file["test"] is None else f"{file['test']:.4f}{interval}"
        time = "" if file["p50_ms"] is None else f"{file['p50_ms']:.4g}"
        rows.append([file["name"], f"{file['bytes']:,}", f"{file['validation']:.4f}", test, drop, time])
    split = document["files"][0]["split"]
    heads = ("file", "bytes", "validation", "test", f"drop, {split}", "p50 ms")
    return make_table(document["metric"], heads, rows)
