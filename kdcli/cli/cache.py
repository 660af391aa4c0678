"""kd cache: list, show and remove cached teacher outputs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.repeated_options import SingleOptions
from kdcli.errors import UsageError

app = typer.Typer(help="List, show and remove cached teacher outputs.", no_args_is_help=True)


@app.command("ls", cls=SingleOptions)
def ls(json: o.Json = False) -> None:
    """List cache entries, the most recently used first."""
    from kdcli.cache.contents import list_cache
    from kdcli.cli.console import Output, make_table

    document = list_cache().to_json()
    entries = document["entries"]
    names = ("key", "outputs of", "views", "examples", "precision", "shards", "bytes", "last used")
    parts: list[Any] = [make_table("", names, [_make_row(entry) for entry in entries])] if entries else []
    noun = "entry" if len(entries) == 1 else "entries"
    total = f"{len(entries)} {noun}, {document['bytes']:,} bytes in {document['folder']}"
    Output(json_=json).result(document, human=[*parts, total])


@app.command("show", cls=SingleOptions)
def show(key: Annotated[str, typer.Argument(metavar="KEY")], json: o.Json = False) -> None:
    """Show one cache entry: teacher, data, key components and layout."""
    from kdcli.cache.contents import show_entry
    from kdcli.cli.console import Output

    document = show_entry(key)
    human = [line for name, value in document.items() if name != "schema" for line in _format_field(name, value)]
    Output(json_=json).result(document, human=human)


@app.command("rm", cls=SingleOptions)
def rm(
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY ...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all entries.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Remove cache entries by key, or all."""
    from kdcli.cache.contents import remove_entries
    from kdcli.cli.console import Output

    if bool(keys) == everything:
        raise UsageError("expected either KEY ... or --all", hint="kd cache ls")
    count, freed = remove_entries(keys or (), everything=everything)
    noun = "entry" if count == 1 else "entries"
    Output(quiet=quiet).result({}, human=[f"removed {count} {noun}, freed {freed:,} bytes"])


@app.command("dir", cls=SingleOptions)
def folder() -> None:
    """Print the folder of the cache, which KD_CACHE_DIR sets."""
    from kdcli.cache.contents import list_cache

    typer.echo(list_cache().folder.absolute())


def _make_row(entry: dict[str, Any]) -> list[str]:
    if entry["described"] is None:
        return [entry["key"], "damaged", "", "", "", str(entry["shards"]), f"{entry['bytes']:,}", entry["used"]]
    shards = str(entry["shards"]) if entry["complete"] else f"{entry['shards']} of {entry['of_shards']}"
    source = ", ".join(str(value) for value in entry["described"].values())
    views, examples, size = (f"{entry[name]:,}" for name in ("views", "examples", "bytes"))
    return [entry["key"], source, views, examples, entry["precision"] or "", shards, size, entry["used"]]


def _format_field(name: str, value: Any) -> list[str]:
    if name == "layout" and value:
        arrays = [f"{spec['name']} {spec['dtype']} {spec['shape']}" for spec in value["arrays"]]
        return [f"{'stored':11} {', '.join(arrays)} per example"]
    if isinstance(value, dict):
        parts = [(inner, text) for inner, found in value.items() for text in _to_list(found)]
        return [f"{name:11} {inner}: {text}" for inner, text in parts]
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:,}"
    return [f"{name:11} {'' if value is None else value}".rstrip()]


def _to_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
