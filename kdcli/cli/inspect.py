"""kd inspect: options, and a model in lines and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup

if TYPE_CHECKING:
    from kdcli.cli.console import Table
    from kdcli.runs.inspection_results import InspectedLayer


def command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL|RUN", help="Model file, run directory, or zoo:NAME with --data.")
    ],
    recipe_options: RecipeGroup,
    part: PartGroup,
    printing: OutputGroup,
    recipe: o.RecipeOption = None,
) -> None:
    """Show shapes, parameters, FLOPs and taps of a model."""
    from kdcli.commands.inspect import inspect

    output = printing.open()
    options = recipe_options.to_options(output)
    options.update(part.to_options())
    inspection = inspect(model, recipe=recipe, limit=recipe_options.number_of_examples(), **options)
    document = inspection.to_json()
    layers = inspection.layers if output.verbose else ()
    output.result(
        document, path=document["path"], human=[*_describe_file(document), *_make_tables(document, layers)]
    )
    if inspection.sizes:
        chosen, data = format_model(document["sizes"][0]["model"]), recipe_options.data
        output.next_command(f"kd distill --teacher FILE --data {data} --set 'student.model={chosen}'")
    if inspection.refused is not None:
        # The document holds the verdict; the error follows it.
        output.failed(inspection.refused)
        raise typer.Exit(inspection.refused.exit_code)


def _describe_file(document: dict[str, Any]) -> list[str]:
    from kdcli.cli.console import format_bytes

    digest = f", sha256 {document['sha256']}" if document["sha256"] else ", untrained"
    lines = [f"{document['path']}: {document['format']}, {document['bytes']:,} bytes{digest}"]
    for noun in ("input", "output"):
        for tensor in document[f"{noun}s"]:
            text = f"{_format_shape(tensor['shape'])} {tensor['dtype']}{_describe_details(tensor)}"
            lines.append(f"{noun:10} {tensor['name']}: {text}")
    if document["output_kind"]:
        lines[-1] += f", {document['output_kind']}"
    if document["parameters"] is not None:
        lines.append(f"parameters {document['parameters']:,}")
        lines.append(f"weights    {format_bytes(document['export_bytes'])}")
        flops = document["flops"]
        lines.append(f"FLOPs      {'n/a' if flops is None else f'{flops:,} per example'}")
    if document.get("signatures"):
        names = ", ".join(document["signatures"])
        chosen = document["signature"]
        lines.append(f"signature  {chosen} of {names}" if chosen else f"signatures {names}")
    lines.append(f"screening  safe: {str(document['safe']).lower()}")
    lines.extend(f"finding    {finding}" for finding in document["findings"])
    return [*lines, *_describe_check(document.get("checked"))]


def _describe_details(tensor: dict[str, Any]) -> str:
    """A fixed batch size, and the quantization of integers."""
    batch = tensor["shape"][0] if tensor["shape"] else None
    fixed = "" if batch is None else f", batch {batch}"
    scaled = f", scale {tensor['scale']:.6g}, zero point {tensor['zero_point']}" if "scale" in tensor else ""
    return fixed + scaled


def _describe_check(checked: dict[str, Any] | None) -> list[str]:
    from kdcli.cli.console import format_scale

    if checked is None:
        return []
    metrics = "".join(f", {name} {value:.4f}" for name, value in checked.items() if isinstance(value, float))
    scales = {format_scale(entry["scale"]) for entry in checked["input"].values() if entry["scale"]}
    scaled = "".join(f", input.scale {scale}" for scale in sorted(scales))
    shape = "×".join(str(side) for side in checked["answer"])
    count = f"{checked['examples']:,} examples of {checked['data']} ({checked['split']}, {checked['task']})"
    return [f"checked    {count}: output shape {shape}{scaled}{metrics}"]


def _make_tables(document: dict[str, Any], layers: Sequence[InspectedLayer]) -> list[Table]:
    from kdcli.cli.console import make_table

    tables = []
    if document.get("sizes"):
        rows = [
            [
                format_model(size["model"]),
                f"{size['parameters']:,}",
                f"{size['int8_bytes']:,}",
                "n/a" if size["flops"] is None else f"{size['flops']:,}",
                f"{size['latency']['p50_ms']:.3g}",
            ]
            for size in document["sizes"]
        ]
        runtime = document["sizes"][0]["latency"]["runtime"]
        columns = ("student.model", "parameters", "int8 bytes", "FLOPs", f"p50 ms ({runtime})")
        tables.append(make_table("", columns, rows))
    if document["taps"]:
        rows = [[tap["name"], _format_shape(tap["shape"])] for tap in document["taps"]]
        tables.append(make_table("", ("tap", "shape"), rows))
    if layers:
        rows = [[layer.name, layer.kind, f"{layer.parameters:,}"] for layer in layers]
        tables.append(make_table("", ("layer", "class", "parameters"), rows))
    return tables


def format_model(model: dict[str, Any]) -> str:
    """A zoo model as a value for `--set student.model=`."""
    return "{" + ", ".join(f"{name}: {value}" for name, value in model.items()) + "}"


def _format_shape(shape: list[int | None] | None) -> str:
    """A shape without the batch axis."""
    if shape is None:
        return "unknown"
    return "×".join("any" if side is None else str(side) for side in shape[1:]) or "one"
