"""Output of commands for people, scripts and `--json`; the only file that imports rich.

stdout carries the result and nothing else; progress, notes and errors go to stderr. A terminal shows progress
bars; elsewhere progress is one plain line per epoch, and at least one per minute.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement

from kdcli import events
from kdcli.errors import KdError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table as Table

    from kdcli.runs.results import Plan

# Without a terminal, progress is printed at least this often.
MAX_SILENCE_SECONDS = 60.0
_PHASES = {
    "teacher": "teacher outputs",
    "training": "training",
    "evaluation": "evaluation",
    "latency": "latency",
}


class Output:
    """The output of a command.

    Args:
        json_: print results as JSON documents.
        quiet: print only the path of a result, and errors.
        verbose: print plans with all settings.
        no_color: print without colors, as NO_COLOR does.
    """

    def __init__(self, *, json_: bool = False, quiet: bool = False, verbose: bool = False, no_color: bool = False):
        self.json = json_
        self.quiet = quiet
        self.verbose = verbose
        plain = no_color or bool(os.environ.get("NO_COLOR"))
        self.out = _make_console(sys.stdout, plain=plain)
        self.err = _make_console(sys.stderr, plain=plain)
        self._bars: Progress | None = None
        self._task: tuple[str, TaskID] | None = None
        self._validated = ""
        self._printed_at = time.monotonic()

    def result(self, document: dict[str, Any], *, path: str | None = None, human: Sequence[Any] = ()) -> None:
        """Print the result: as a document, as a path, or for people.

        Args:
            document: printed with `--json`.
            path: printed with `--quiet`; nothing if None.
            human: lines and tables, printed otherwise.
        """
        self.close()
        if self.json:
            print(json.dumps(document, indent=2))
        elif self.quiet:
            if path is not None:
                print(path)
        else:
            for part in human:
                self._show(part)

    def failed(self, error: KdError) -> None:
        """Print an error after a document that was printed nevertheless."""
        self.err.print(f"error: {error.message}", markup=False, highlight=False, soft_wrap=True)
        if error.hint:
            self.err.print(f"hint: {error.hint}", markup=False, highlight=False, soft_wrap=True)

    def next_command(self, command: str) -> None:
        """Print the command to run next, on stderr."""
        if not (self.quiet or self.json):
            self.err.print(f"next: {command}", markup=False, highlight=False, soft_wrap=True)

    def on_event(self, event: events.Event) -> None:
        """Show an event."""
        if self.quiet:
            return
        if isinstance(event, events.Note):
            self._line(("warning: " if event.warning else "") + event.text)
        elif isinstance(event, events.Planned):
            if not self.json:
                for part in format_plan(event.plan, with_settings=self.verbose):
                    self._show(part, console=self.err)
        elif isinstance(event, events.EpochEnded):
            self._validated = _format_validation(event)
            if not self.err.is_terminal:
                self._line(_format_epoch(event))
        elif self.err.is_terminal:
            self._update_bars(event)
        elif time.monotonic() - self._printed_at > MAX_SILENCE_SECONDS:
            self._line(_format_progress(event))

    def close(self) -> None:
        """Remove the progress bars."""
        if self._bars is not None:
            self._bars.stop()
            self._bars, self._task = None, None

    def _line(self, text: str) -> None:
        self._printed_at = time.monotonic()
        console = self._bars.console if self._bars is not None else self.err
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    def _update_bars(self, event: events.Progress) -> None:
        bars = self._bars = self._bars or _start_bars(self.err)
        metrics = "  ".join(part for part in (self._validated, _format_metrics(event)) if part)
        if self._task is None or self._task[0] != event.phase:
            if self._task is not None:
                bars.remove_task(self._task[1])
            task = bars.add_task(_PHASES[event.phase], total=event.total, metrics="", count="")
            self._task = (event.phase, task)
        count = _format_count(event)
        bars.update(self._task[1], completed=event.done, total=event.total, metrics=metrics, count=count)

    def _show(self, part: str | Table, *, console: Console | None = None) -> None:
        console = console or self.out
        if isinstance(part, str):
            console.print(part, markup=False, highlight=False, soft_wrap=not console.is_terminal)
            return
        # A table may be wider than the terminal: a truncated number would be a wrong number.
        width = console.width
        needed = Measurement.get(console, console.options.update(max_width=10_000), part).maximum
        if any(not column.no_wrap for column in part.columns):
            # Text columns wrap; in less than 72 columns they would be a letter wide.
            needed = min(needed, max(width, 72))
        console.width = max(needed, width)
        with console.capture() as drawn:
            console.print(part, crop=False, soft_wrap=needed > width)
        console.width = width
        # Cells are padded with blanks, which are invisible only in a terminal.
        lines = drawn.get().splitlines(keepends=True)
        console.file.write("".join(lines if console.is_terminal else [f"{line.rstrip()}\n" for line in lines]))


def _make_console(stream: TextIO, *, plain: bool) -> Console:
    # All explicit: rich would follow CI variables, and truncate cells at 80 columns without a terminal.
    terminal = stream.isatty()
    return Console(
        file=stream,
        width=None if terminal else 500,
        force_terminal=terminal,
        color_system="auto" if terminal and not plain else None,
        no_color=plain or not terminal,
    )


def _start_bars(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    fixed, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
    # Metrics come last: a narrow terminal truncates them, and keeps the bar, the count and the remaining time.
    bars = Progress(
        TextColumn("{task.description}", table_column=fixed),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[count]}", table_column=fixed),
        TimeRemainingColumn(table_column=fixed),
        TextColumn("{task.fields[metrics]}", table_column=rest),
        console=console,
        transient=True,
        expand=True,
    )
    bars.start()
    return bars


def _format_epoch(event: events.EpochEnded) -> str:
    parts = [f"epoch {event.epoch}/{event.epochs}"]
    for name, value in event.metrics.items():
        if name in ("epoch", "step"):
            continue
        short = name.removeprefix("losses.")
        shown = f"{value:.3g}" if name == "learning_rate" else f"{value:.4f}"
        parts.append(f"{short} {value:.0f}" if name == "examples_per_second" else f"{short} {shown}")
    return "  ".join(parts) + ("  best" if event.best else "")


def _format_validation(event: events.EpochEnded) -> str:
    """The first validation metric."""
    metrics = (f"{name} {value:.4f}" for name, value in event.metrics.items() if name.startswith("validation."))
    return next(metrics, "")


def _format_count(event: events.Progress) -> str:
    count = f"{event.done:,}/{event.total:,} {event.unit}"
    return count if event.epoch is None else f"epoch {event.epoch}/{event.epochs}  {count}"


def _format_metrics(event: events.Progress) -> str:
    metrics = dict(event.metrics)
    rate = metrics.pop("examples_per_second", None)
    parts = [] if rate is None else [f"{rate:,.0f} examples/s"]
    return "  ".join([*parts, *(f"{name} {value:.4f}" for name, value in metrics.items())])


def _format_progress(event: events.Progress) -> str:
    phase = _PHASES.get(event.phase, event.phase) if event.epoch is None else ""
    return "  ".join(part for part in (phase, _format_count(event), _format_metrics(event)) if part)


def make_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Sequence[str] = ()
) -> Table:
    """A table with names in its first column and numbers in the others; no cell is truncated.

    Args:
        title: a line above the table; none if empty.
        columns: heads of the columns.
        rows: cells.
        texts: heads of columns with sentences, which wrap on a narrow terminal.
    """
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        wraps = name in texts
        side: Any = "left" if wraps or number == 0 else "right"
        table.add_column(name, justify=side, no_wrap=not wraps, overflow="fold" if wraps else "ignore")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def format_bytes(sizes: dict[str, int]) -> str:
    """`25,544 bytes as float32, 6,386 bytes as int8`: bytes by type."""
    return ", ".join(f"{size:,} bytes as {dtype}" for dtype, size in sizes.items())


def _describe_targets(targets: dict[str, Any]) -> str:
    views = "a new view every epoch" if targets["views"] == "all" else f"{targets['views']} views"
    views = "one view" if targets["views"] == 1 else views
    size = "" if targets["mode"] == "live" else f", {targets['bytes']:,} bytes"
    return f"targets   {targets['mode']}, {targets['precision']}, {views}{size}: {targets['why']}"


def format_scale(scale: str | dict[str, Any]) -> str:
    """An input scale as people read it."""
    if isinstance(scale, str):
        return scale
    mean, deviation = (", ".join(f"{value:g}" for value in scale[name]) for name in ("mean", "deviation"))
    return f"mean {mean}, deviation {deviation}"


def _describe_model(side: dict[str, Any]) -> str:
    """One line for a model of a plan."""
    scales = {f", scale {format_scale(entry['scale'])}" for entry in side["input"].values() if entry["scale"]}
    sizes = {f", resized to {e['resize'][0]}×{e['resize'][1]}" for e in side["input"].values() if e["resize"]}
    text = f"{_describe_parameters(side)}, weights {side['start']}, {side['output_kind']}"
    text += f", logits {side['logits_from']}" if side["logits_from"] != "output" else ""
    text += f", {side['flops']:,} FLOPs" if side.get("flops") else ""
    if side.get("latency"):
        text += f", {side['latency']['p50_ms']:.3g} ms per example ({side['latency']['runtime']}, batch 1)"
    return f"{side['name']}: {text}{''.join([*sorted(scales), *sorted(sizes)])}"


def _describe_parameters(side: dict[str, Any]) -> str:
    count = side["parameters"]
    return "unknown number of parameters" if count is None else f"{count:,} parameters"


def _describe_formats(formats: dict[str, str]) -> list[str]:
    """The formats that the trained model can be exported to, and why not to the others."""
    possible = ", ".join(kind for kind, state in formats.items() if state == "yes")
    others = [f"exports   {kind}: {state}" for kind, state in formats.items() if state != "yes"]
    return [f"exports   {possible}", *others] if possible else others


def format_plan(plan: Plan, *, with_settings: bool) -> list[str | Table]:
    """The lines of a plan; `with_settings` adds a table of all settings with their origins."""
    data = plan.data
    splits = ", ".join(f"{data[name]:,} {name}" for name in ("train", "validation", "test") if data[name])
    noun = "output" if data["outputs"] == 1 else "outputs"
    lines: list[str | Table] = [f"data      {data['name']}: {splits}; {data['task']}, {data['outputs']} {noun}"]
    for role, side in (("teacher", plan.teacher), ("student", plan.student)):
        if side is None:
            continue
        members = side.get("members")
        if members:
            lines.append(f"{role:9} {side['name']}: {_describe_parameters(side)} in total")
        lines.extend(f"{role:9} {_describe_model(model)}" for model in members or (side,))
    for pair in plan.pairs:
        through = [text for text in (pair["projection"], pair["parts"]) if text]
        how = f" ({'; '.join(through)})" if through else ""
        chosen = f", paired automatically: {pair['why']}" if pair["automatic"] else ""
        sides = f"student {pair['student']} → teacher {pair['teacher']}"
        lines.append(f"pair      {pair['loss']}: {sides}{how}{chosen}")
    if plan.targets:
        lines.append(_describe_targets(plan.targets))
    epochs, steps = (f"{n:,} {word}{'s' * (n != 1)}" for n, word in ((plan.epochs, "epoch"), (plan.steps, "step")))
    lines.append(f"training  {epochs}, {steps}")
    times = ", ".join(f"{name} {seconds} s" for name, seconds in plan.seconds.items() if seconds is not None)
    if times:
        lines.append(f"time      {times} (estimated)")
    lines.append(f"memory    about {plan.memory_bytes:,} bytes")
    lines.append(f"weights   {format_bytes(plan.student_bytes)}")
    lines.extend(_describe_formats(plan.student_formats))
    lines.extend(f"note      {finding}" for finding in plan.findings)
    if with_settings:
        rows = [[row["path"], str(row["value"]), row["origin"]] for row in plan.settings]
        lines.append(make_table("", ("setting", "value", "origin"), rows))
    return lines
