"""kd demo: options, and the table of models."""

from __future__ import annotations

from typing import Any

from kdcli.cli import options as o
from kdcli.cli.interrupts import catch_interrupts


def command(
    out: o.Out = None,
    threads: o.Threads = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    no_color: o.NoColor = False,
) -> None:
    """Run all main commands on embedded data, offline."""
    from kdcli.cli.console import Output
    from kdcli.commands.demo import demo

    output = Output(json_=json, quiet=quiet, no_color=no_color)
    with catch_interrupts(None) as stop:
        try:
            result = demo(out=out, threads=threads, stop=stop, on_event=output.on_event)
        finally:
            output.close()
    document = result.to_json()
    output.result(document, path=document["out"], human=_format_demo(document))
    output.next_command("kd distill --teacher YOUR.keras --student YOUR.keras --data YOUR.npz")


def _format_demo(document: dict[str, Any]) -> list[Any]:
    from kdcli.cli.console import make_table

    rows = []
    for model in document["models"]:
        time = "" if model["p50_ms"] is None else f"{model['p50_ms']:.3f}"
        count = "" if model["parameters"] is None else f"{model['parameters']:,}"
        size = f"{model['bytes']:,}"
        rows.append(
            [
                model["name"],
                f"{model['accuracy']:.4f}",
                count,
                size,
                f"{model['smaller']:.1f}×",
                time,
                model["runtime"],
            ]
        )
    heads = ("model", "accuracy", "parameters", "bytes", "smaller", "p50 ms", "runtime")
    gain = document["comparison"]["gain"]
    times = ", ".join(f"{name} {value} s" for name, value in document["seconds"].items())
    return [
        make_table("1,797 real digits, 8×8 pixels; accuracy on the 360 test examples", heads, rows),
        f"distilled vs. baseline, three seeds: {document['comparison']['verdict']}, "
        f"gain {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]",
        f"all files are in {document['out']}",
        f"time: {times}",
    ]
