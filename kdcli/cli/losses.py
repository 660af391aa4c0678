"""kd losses: list, show and check kinds of losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.repeated_options import SingleOptions

if TYPE_CHECKING:
    from kdcli.catalogue.description import Description, Option
    from kdcli.cli.console import Table

app = typer.Typer(help="List, show and check kinds of losses.", no_args_is_help=True)
# As for a failed gate: the command itself succeeded.
_EXIT_CODE_FAILED = 7


@app.command("ls", cls=SingleOptions)
def ls(code: o.Code = None, json: o.Json = False) -> None:
    """List the kinds of losses, custom kinds first."""
    from kdcli.catalogue.description import describe_kind
    from kdcli.cli.console import Output, make_table
    from kdcli.loss import Loss
    from kdcli.losses import LOSS_KINDS
    from kdcli.models.custom_code import find_kinds

    found = [describe_kind(member) for member in (*find_kinds(code or ()).of(Loss).values(), *LOSS_KINDS.values())]
    rows = [[one.kind, one.year, f"{one.weight:g}", one.known_as, ", ".join(one.needs)] for one in found]
    shown = make_table("", ("kind", "year", "weight", "known as", "needs"), rows, texts=("known as", "needs"))
    Output(json_=json).result({"schema": "kd.losses/1", "losses": [_to_json(one) for one in found]}, human=[shown])


@app.command("show", cls=SingleOptions)
def show(kind: Annotated[str, typer.Argument(metavar="KIND")], code: o.Code = None, json: o.Json = False) -> None:
    """Show a kind: formula, paper, shapes, options, requirements, recipe entry."""
    from kdcli.catalogue.description import describe_kind
    from kdcli.cli.console import Output, make_table
    from kdcli.loss import Loss
    from kdcli.losses import find
    from kdcli.models.custom_code import find_kinds

    one = describe_kind(find_kinds(code or ()).of(Loss).get(kind) or find(kind))
    rows = [[f"  {option.name}", _format_default(option), option.type, option.meaning] for option in one.options]
    options = make_table("", ("options", "default", "takes", "meaning"), rows, texts=("takes", "meaning"))
    human = [*_describe_kind(one), "", options, "", f"in a recipe:  {one.entry}"]
    details = [
        {"name": option.name, "type": option.type, "default": option.default, "meaning": option.meaning}
        for option in one.options
    ]
    document = {
        "schema": "kd.loss/1",
        **_to_json(one),
        "text": "\n\n".join(part for part in (one.formula, one.text) if part),
        "shapes": one.shapes,
        "refuses": list(one.refuses),
        "pairing": one.pairing or None,
        "notes": list(one.notes),
        "entry": one.entry,
        "options": {option.name: option.default for option in one.options},
        "details": details,
    }
    Output(json_=json).result(document, human=human)


@app.command("check", cls=SingleOptions)
def check(
    what: Annotated[
        str, typer.Argument(metavar="FILE.py|KIND", help="Python file with custom losses, or a kind.")
    ],
    json: o.Json = False,
) -> None:
    """Check the contract of losses; exit with code 7 if a kind breaks it."""
    from kdcli.cli.console import Output, make_table
    from kdcli.commands.check_losses import check_losses

    output = Output(json_=json)
    human: list[str | Table] = []
    checked = check_losses(what)
    for loss in checked:
        rows = [[point.name, point.state, point.reason] for point in loss.points]
        human.append(make_table(loss.kind, ("contract", "state", "reason"), rows, texts=("state", "reason")))
        count = {
            state: sum(point.state == state for point in loss.points) for state in ("passed", "skipped", "failed")
        }
        human.append(f"{loss.kind}: " + ", ".join(f"{number} {state}" for state, number in count.items()))
    document = {"schema": "kd.losses-check/1", "checked": what, "losses": [loss.to_json() for loss in checked]}
    output.result(document, human=human)
    if any(loss.failed for loss in checked):
        raise typer.Exit(_EXIT_CODE_FAILED)


def _to_json(one: Description) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "needs": list(one.needs),
        "summary": one.formula,
        "known_as": one.known_as or None,
        "paper": one.paper or None,
        "year": int(one.year) if one.year else None,
        "family": one.family,
        "weight": one.weight,
    }


def _describe_kind(one: Description) -> list[str]:
    """The lines above the options: formula, text, shapes, requirements, notes."""
    named = ", ".join(part for part in (one.known_as, one.paper) if part)
    lines = [f"{one.kind}: {named}" if named else one.kind, "", one.formula]
    lines += ["", " ".join(one.text.split("\n"))] if one.text else []
    about = {
        "shapes": one.shapes,
        "needs": ", ".join(one.needs),
        "refuses": "; ".join(one.refuses),
        "layers": one.pairing,
    }
    lines += ["", *(f"{name:8} {words}" for name, words in about.items() if words)]
    return [*lines, *(f"{'note':8} {note}" for note in one.notes)]


def _format_default(option: Option) -> str:
    if option.required:
        return "none"
    value = option.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "-" if value is None else str(value)
