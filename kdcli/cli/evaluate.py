"""kd evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdcli.cli import options as o


def command(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL|RUN ...", help="Model files or run directories.")],
    data: o.Data = None,
    teacher: o.Teacher = None,
    recipe: o.Recipe = None,
    set_: o.Set = None,
    limit: o.Limit = None,
    batch_size: o.BatchSize = None,
    threads: o.Threads = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    no_color: o.NoColor = False,
    split: o.Split = "auto",
) -> None:
    """Measure models on one split."""
    from kdcli.cli.console import Output
    from kdcli.workflows.evaluate import evaluate

    output = Output(json_=json, quiet=quiet, verbose=verbose, no_color=no_color)
    evaluation = evaluate(
        *models,
        data=data,
        teacher=teacher,
        recipe=recipe,
        settings=set_ or (),
        split=split,
        limit=o.parse_limit(limit),
        batch_size=batch_size,
        threads=threads,
        on_event=output.on_event,
    )
    document = evaluation.to_json()
    output.result(document, path=document["models"][0]["path"], human=[_table(document)])


def _table(document: dict[str, Any]) -> Any:
    from kdcli.cli.console import table

    names = ("accuracy", "macro_f1", "mean_iou", "rmse", "mae", "loss", "top5", "ece", "balanced_accuracy")
    models = document["models"]
    shown = [name for name in (*names, "agreement") if any(model.get(name) is not None for model in models)]
    rows = []
    for model in models:
        cells = []
        for name in shown:
            value = model.get(name)
            cell = "" if value is None else f"{value:.4f}"
            if name == "accuracy" and model.get("low") is not None:
                cell += f" [{model['low']:.4f}, {model['high']:.4f}]"
            cells.append(cell)
        rows.append([model["path"], *cells, str(model["parameters"]), str(model["bytes"])])
    title = f"{models[0]['examples']} examples, {document['split']} split"
    return table(title, ("model", *shown, "parameters", "bytes"), rows)
