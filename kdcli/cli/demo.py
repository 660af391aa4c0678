"""kd demo: options, and the tables of the search."""

from __future__ import annotations

from kdcli.cli import options as o
from kdcli.cli.interrupts import catch_interrupts


def command(
    out: o.Out = None,
    threads: o.Threads = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    no_color: o.NoColor = False,
) -> None:
    """Train a teacher on embedded data and compress it, offline."""
    from kdcli.cli.compress import format_compression
    from kdcli.cli.console import Output
    from kdcli.commands.demo import demo

    output = Output(json_=json, quiet=quiet, no_color=no_color)
    with catch_interrupts(None) as stop:
        try:
            result = demo(out=out, threads=threads, stop=stop, on_event=output.on_event)
        finally:
            output.close()
    document = result.to_json()
    times = ", ".join(f"{name} {value} s" for name, value in document["seconds"].items())
    output.result(
        document,
        path=document["compress"]["picked"]["path"],
        human=[
            *format_compression(result.compression),
            f"all files are in {document['out']}",
            f"time: {times}",
        ],
    )
    output.next_command("kd compress YOUR.keras --data YOUR.npz --max-size-mb 0.3 --max-accuracy-drop 0.02")
