"""kd losses: the catalogue."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from kdcli.cli import options as o

app = typer.Typer(help="Losses: list, show.", no_args_is_help=True)


@app.command("ls")
def ls(json: o.Json = False) -> None:
    """List the kinds of losses."""
    from kdcli.cli.console import Output
    from kdcli.losses import KINDS

    rows = [_entry(kind, member) for kind, member in KINDS.items()]
    lines = [f"{row['kind']:20} {', '.join(row['needs']) or 'nothing':29} {row['summary']}" for row in rows]
    heading = f"{'kind':20} {'needs':29} summary"
    Output(json_=json).result({"schema": "kd.losses/1", "losses": rows}, human=[heading, *lines])


@app.command("show")
def show(kind: Annotated[str, typer.Argument(metavar="KIND")], json: o.Json = False) -> None:
    """Show a kind: formula, source, shapes, options with their defaults."""
    from kdcli.cli.console import Output
    from kdcli.losses import find

    member = find(kind)
    entry = {**_entry(kind, member), "text": inspect.getdoc(member), "options": _options(member)}
    lines = [entry["text"], "", "options:"]
    lines += [f"  {name}: {default}" for name, default in entry["options"].items()]
    lines += ["", f"in a recipe:  losses: [{{kind: {kind}, weight: {entry['options']['weight']}}}]"]
    Output(json_=json).result({"schema": "kd.loss/1", **entry}, human=lines)


def _entry(kind: str, member: Any) -> dict[str, Any]:
    from kdcli.loss import FeatureLoss

    wants = {
        "labels": member.needs_labels,
        "teacher": member.needs_teacher,
        "features": issubclass(member, FeatureLoss),
        "projection": getattr(member, "projects", False),
    }
    summary = (inspect.getdoc(member) or "").splitlines()[0]
    return {"kind": kind, "needs": [name for name, wanted in wants.items() if wanted], "summary": summary}


def _options(member: Any) -> dict[str, Any]:
    fields = {field.alias or name: field.default for name, field in member.model_fields.items()}
    return {name: default for name, default in fields.items() if name not in ("kind", "name")}
