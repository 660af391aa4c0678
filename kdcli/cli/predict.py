"""kd predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdcli.cli import options as o
from kdcli.cli.values import parse_limit


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL|RUN", help="Model file or run directory.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE.npz|FILE.csv", help="A new file.", rich_help_panel=o.COMMON),
    ],
    data: o.Data = None,
    recipe: o.RecipeOption = None,
    set_: o.Set = None,
    limit: o.LimitOption = None,
    batch_size: o.BatchSizeOption = None,
    threads: o.Threads = None,
    code: o.Code = None,
    trust_model: o.TrustModel = False,
    allow_tables: o.AllowTables = False,
    allow_remote: o.AllowRemote = False,
    signature: o.Signature = None,
    output_name: o.OutputName = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    no_color: o.NoColor = False,
    split: o.Split = "auto",
) -> None:
    """Write a model's answers to a file."""
    given = dict(locals())

    from kdcli.cli.console import Output
    from kdcli.commands.predict import predict

    output = Output(json_=json, quiet=quiet, verbose=verbose, no_color=no_color)
    prediction = predict(
        model,
        data=data,
        out=out,
        recipe=recipe,
        **o.trust_options(given),
        settings=set_ or (),
        split=split,
        limit=parse_limit(limit),
        batch_size=batch_size,
        threads=threads,
        on_event=output.on_event,
    )
    document = prediction.to_json()
    count = f"{document['examples']} examples of the {document['split']} split, {document['task']}"
    output.result(document, path=document["path"], human=[f"{document['path']}: {count}, by {document['model']}"])
