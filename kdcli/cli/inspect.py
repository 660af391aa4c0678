"""kd inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdcli.cli import options as o
from kdcli.cli.groups import OutputGroup, PartGroup, RecipeGroup


def command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL|RUN", help="Model file, run directory, or zoo:NAME with --data.")
    ],
    recipe_options: RecipeGroup,
    part: PartGroup,
    printing: OutputGroup,
    recipe: o.RecipeOption = None,
) -> None:
    """Look into a model: layers, shapes, parameters, FLOPs, taps; with --data, on real examples."""
    from kdcli.commands.inspect import inspect

    output = printing.open()
    options = recipe_options.to_options(output)
    options.update(part.to_options())
    inspection = inspect(model, recipe=recipe, limit=recipe_options.number_of_examples(), **options)
    document = inspection.to_json()
    layers = inspection.layers if output.verbose else ()
    output.result(document, path=document["path"], human=[*_summary(document), *_tables(document, layers)])
    if inspection.sizes:
        chosen, data = model_text(document["sizes"][0]["model"]), recipe_options.data
        output.next_command(f"kd distill --teacher FILE --data {data} --set 'student.model={chosen}'")
    if inspection.refused is not None:
        # The verdict is the document: the failure is printed after it.
        output.failed(inspection.refused)
        raise typer.Exit(inspection.refused.exit_code)


def _summary(document: dict[str, Any]) -> list[str]:
    digest = f", sha256 {document['sha256']}" if document["sha256"] else ", untrained"
    lines = [f"{document['path']}: {document['format']}, {document['bytes']} bytes{digest}"]
    for noun in ("input", "output"):
        for tensor in document[f"{noun}s"]:
            lines.append(f"{noun:10} {tensor['name']}: {_shape(tensor['shape'])} {tensor['dtype']}{_held(tensor)}")
    if document["output_kind"]:
        lines[-1] += f", {document['output_kind']}"
    if document["parameters"] is not None:
        sizes = ", ".join(f"{width} {size} bytes" for width, size in document["export_bytes"].items())
        lines.append(f"parameters {document['parameters']}; exported as {sizes}")
        flops = document["flops"]
        lines.append(f"FLOPs      {'n/a' if flops is None else f'{flops} an example'}")
    if document.get("signatures"):
        names = ", ".join(document["signatures"])
        chosen = document["signature"]
        lines.append(f"signature  {chosen} of {names}" if chosen else f"signatures {names}")
    lines.append(f"screening  safe: {str(document['safe']).lower()}")
    lines.extend(f"finding    {finding}" for finding in document["findings"])
    return [*lines, *_checked(document.get("checked"))]


def _held(tensor: dict[str, Any]) -> str:
    """The only batch size, and what stored integers mean."""
    batch = tensor["shape"][0] if tensor["shape"] else None
    fixed = "" if batch is None else f", batches of {batch}"
    scaled = f", scale {tensor['scale']:.6g}, zero point {tensor['zero_point']}" if "scale" in tensor else ""
    return fixed + scaled


def _checked(checked: dict[str, Any] | None) -> list[str]:
    from kdcli.cli.console import scale_text

    if checked is None:
        return []
    figures = {name: value for name, value in checked.items() if isinstance(value, float)}
    shown = "".join(f", {name} {value:.4f}" for name, value in figures.items())
    scales = {scale_text(entry["scale"]) for entry in checked["input"].values() if entry["scale"]}
    scaled = "".join(f", input.scale {scale}" for scale in sorted(scales))
    answer = "×".join(str(side) for side in checked["answer"])
    count = f"{checked['examples']} examples of {checked['data']} ({checked['split']}, {checked['task']})"
    return [f"checked    {count}: answers {answer}{scaled}{shown}"]


def _tables(document: dict[str, Any], layers: Any) -> list[Any]:
    from kdcli.cli.console import table

    tables = []
    if document.get("sizes"):
        rows = [
            [
                model_text(size["model"]),
                f"{size['parameters']:,}",
                f"{size['int8_bytes']:,}",
                "n/a" if size["flops"] is None else f"{size['flops']:,}",
                f"{size['latency']['p50_ms']:.3g}",
            ]
            for size in document["sizes"]
        ]
        runtime = document["sizes"][0]["latency"]["runtime"]
        columns = ("student.model", "parameters", "int8 bytes", "FLOPs", f"p50 ms ({runtime})")
        tables.append(table("", columns, rows))
    if document["taps"]:
        rows = [[tap["name"], _shape(tap["shape"])] for tap in document["taps"]]
        tables.append(table("", ("tap", "shape"), rows))
    if layers:
        rows = [[layer.name, layer.kind, str(layer.parameters)] for layer in layers]
        tables.append(table("", ("layer", "class", "parameters"), rows))
    return tables


def model_text(model: dict[str, Any]) -> str:
    """A zoo model as `--set student.model=` takes it."""
    return "{" + ", ".join(f"{name}: {value}" for name, value in model.items()) + "}"


def _shape(shape: list[int | None] | None) -> str:
    """Without the batch axis."""
    if shape is None:
        return "unknown"
    return "×".join("any" if side is None else str(side) for side in shape[1:]) or "one"
