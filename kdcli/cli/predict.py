"""kd predict: options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli import options as o
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL|RUN", help="Model file or run directory.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE.npz|FILE.csv", help="File to create.", rich_help_panel=o.COMMON),
    ],
    recipe_options: RecipeGroup,
    part: PartGroup,
    printing: OutputGroup,
    recipe: o.RecipeOption = None,
    split: o.Split = "auto",
) -> None:
    """Write a model's predictions to a file."""
    from kdcli.commands.predict import predict

    output = printing.open()
    options = recipe_options.to_options(output)
    options.update(part.to_options())
    limit = recipe_options.number_of_examples()
    prediction = predict(model, out=out, recipe=recipe, split=split, limit=limit, **options)
    document = prediction.to_json()
    count = f"{document['examples']:,} examples of the {document['split']} split, {document['task']}"
    text = f"{document['path']}: predictions of {document['model']}, {count}"
    output.result(document, path=document["path"], human=[text])
