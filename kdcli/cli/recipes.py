"""kd recipes: list, show, copy and check recipes; print their JSON schema."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli import options as o
from kdcli.cli.repeated_options import SingleOptions

app = typer.Typer(help="List, show, copy and check recipes.", no_args_is_help=True)


@app.command("ls", cls=SingleOptions)
def ls(json: o.Json = False) -> None:
    """List the shipped recipes."""
    from kdcli.cli.console import Output
    from kdcli.recipe.reader import read_recipe
    from kdcli.recipe.shipped_recipes import list_shipped_recipes

    rows = [[name, read_recipe(name).recipe.description] for name in list_shipped_recipes()]
    document = {"schema": "kd.recipes/1", "recipes": [{"name": n, "description": d} for n, d in rows]}
    Output(json_=json).result(document, human=[f"{name:14} {text}" for name, text in rows])


@app.command("show", cls=SingleOptions)
def show(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Print a shipped recipe."""
    from kdcli.recipe.reader import read_shipped_recipe

    typer.echo(read_shipped_recipe(name), nl=False)


@app.command("cp", cls=SingleOptions)
def cp(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    destination: Annotated[
        Path | None, typer.Argument(metavar="[DEST]", help="File or folder; ./NAME.yaml by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Copy a shipped recipe, for example to change it."""
    from kdcli.cli.console import Output
    from kdcli.commands.copy_recipe import copy_recipe

    target = copy_recipe(name, destination, overwrite=overwrite)
    output = Output()
    output.result({}, human=[str(target)])
    output.next_command(f"kd recipes check {target}")


@app.command("check", cls=SingleOptions)
def check(
    recipe: Annotated[str, typer.Argument(metavar="FILE", help="Path, shipped name, or - for stdin.")],
    set_: o.Set = None,
    code: o.Code = None,
    json: o.Json = False,
) -> None:
    """Report all problems in a recipe, with line and column."""
    from kdcli.cli.console import Output
    from kdcli.errors import RecipeError, UsageError
    from kdcli.models.custom_code import find_kinds
    from kdcli.recipe.reader import read_recipe

    source = recipe
    if "/" not in recipe and recipe != "-" and Path(recipe).is_file():
        source = f"./{recipe}"
    custom = find_kinds(code or ())
    try:
        read = read_recipe(source, settings=set_ or (), custom=custom)
    except RecipeError as error:
        # The hint would be to run this very command.
        if (error.hint or "").startswith("kd recipes check"):
            error.hint = None
        raise
    except UsageError as error:
        if error.hint is not None and error.hint.startswith("--recipe "):
            shipped = error.hint.split()[1]
            error.hint = (
                f"kd recipes check {shipped} checks the shipped one; kd recipes cp {shipped} copies it here"
            )
        raise
    values = read.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    document = {"schema": "kd.recipe-check/1", "recipe": recipe, "faults": [], "values": values}
    Output(json_=json).result(document, human=[f"{recipe}: no problems found"])


@app.command("schema", cls=SingleOptions)
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from kdcli.recipe.sections import Recipe

    typer.echo(json_module.dumps(Recipe.model_json_schema(by_alias=True), indent=2))
