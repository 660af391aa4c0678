"""kd cache: list, show, remove kept answers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.repeated_options import SingleOptions
from kdcli.errors import UsageError

app = typer.Typer(help="Kept answers of teachers: list, show, remove.", no_args_is_help=True)


@app.command("ls", cls=SingleOptions)
def ls(json: o.Json = False) -> None:
    """List what is kept, the last used first."""
    from kdcli.cache.contents import list_cache
    from kdcli.cli.console import Output, table

    document = list_cache().to_json()
    entries = document["entries"]
    names = ("key", "answers of", "views", "examples", "precision", "shards", "bytes", "last used")
    parts: list[Any] = [table("", names, [_row(entry) for entry in entries])] if entries else []
    noun = "entry" if len(entries) == 1 else "entries"
    total = f"{len(entries)} {noun}, {document['bytes']} bytes in {document['folder']}"
    Output(json_=json).result(document, human=[*parts, total])


@app.command("show", cls=SingleOptions)
def show(key: Annotated[str, typer.Argument(metavar="KEY")], json: o.Json = False) -> None:
    """Show everything about one entry: whose answers, from what they follow, how they lie."""
    from kdcli.cache.contents import show_entry
    from kdcli.cli.console import Output

    document = show_entry(key)
    human = [line for name, value in document.items() if name != "schema" for line in _lines(name, value)]
    Output(json_=json).result(document, human=human)


@app.command("rm", cls=SingleOptions)
def rm(
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY ...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all of them.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Remove what is kept under keys, or all of it."""
    from kdcli.cache.contents import remove_entries
    from kdcli.cli.console import Output

    if bool(keys) == everything:
        raise UsageError("name what to remove: KEY ..., or --all", hint="kd cache ls")
    count, freed = remove_entries(keys or (), everything=everything)
    Output(quiet=quiet).result({}, human=[f"{count} removed, {freed} bytes came free"])


@app.command("dir", cls=SingleOptions)
def folder() -> None:
    """Print the folder of the cache; KD_CACHE_DIR says where it is."""
    from kdcli.cache.contents import list_cache

    typer.echo(list_cache().folder.absolute())


def _row(entry: dict[str, Any]) -> list[str]:
    if entry["described"] is None:
        return [entry["key"], "damaged", "", "", "", str(entry["shards"]), str(entry["bytes"]), entry["used"]]
    shards = str(entry["shards"]) if entry["complete"] else f"{entry['shards']} of {entry['of_shards']}"
    figures = (entry["views"], entry["examples"], entry["precision"] or "", shards, entry["bytes"], entry["used"])
    return [entry["key"], _described(entry["described"]), *map(str, figures)]


def _described(described: dict[str, Any]) -> str:
    return ", ".join(str(value) for value in described.values())


def _lines(name: str, value: Any) -> list[str]:
    if name == "layout" and value:
        arrays = [f"{spec['name']} {spec['dtype']} {spec['shape']}" for spec in value["arrays"]]
        return [f"{'kept':11} {', '.join(arrays)} of each example"]
    if isinstance(value, dict):
        parts = [(inner, text) for inner, found in value.items() for text in _several(found)]
        return [f"{name:11} {inner}: {text}" for inner, text in parts]
    return [f"{name:11} {'' if value is None else value}".rstrip()]


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
