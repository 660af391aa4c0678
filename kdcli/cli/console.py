"""What people see. The only file that imports rich.

stdout carries the result and nothing else; progress, notes and errors go to stderr. A terminal gets bars,
everything else one plain line an epoch and at least one a minute.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement

from kdcli import events
from kdcli.errors import KdError

QUIET_SECONDS = 60.0
_STAGES = {
    "teacher": "teacher answers",
    "training": "training",
    "evaluation": "evaluating",
    "latency": "timing",
}


class Output:
    """One command's output in its mode: for people, `--json` or `--quiet`."""

    def __init__(self, *, json_: bool = False, quiet: bool = False, verbose: bool = False, no_color: bool = False):
        self.json = json_
        self.quiet = quiet
        self.verbose = verbose
        plain = no_color or bool(os.environ.get("NO_COLOR"))
        self.out = _console(sys.stdout, plain)
        self.err = _console(sys.stderr, plain)
        self._bars: Any = None
        self._task: tuple[str, Any] | None = None
        self._validated = ""
        self._spoke = time.monotonic()

    def result(self, document: dict[str, Any], *, path: str | None = None, human: Sequence[Any] = ()) -> None:
        """Print the result: the document, the path alone, or what a person reads."""
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
        """Say what failed beside a document that was printed all the same."""
        self.err.print(f"error: {error.message}", markup=False, highlight=False, soft_wrap=True)
        if error.hint:
            self.err.print(f"hint: {error.hint}", markup=False, highlight=False, soft_wrap=True)

    def next_command(self, command: str) -> None:
        """Say what to run next, on stderr."""
        if not (self.quiet or self.json):
            self.err.print(f"next: {command}", markup=False, highlight=False, soft_wrap=True)

    def on_event(self, event: events.Event) -> None:
        """Show what a workflow tells."""
        if self.quiet:
            return
        if isinstance(event, events.Note):
            self._line(("warning: " if event.warning else "") + event.text)
        elif isinstance(event, events.Planned):
            if not self.json:
                for part in plan_parts(event.plan, whole=self.verbose):
                    self._show(part, to=self.err)
        elif isinstance(event, events.EpochEnded):
            self._validated = _validation_text(event)
            if not self.err.is_terminal:
                self._line(_epoch_line(event))
        elif self.err.is_terminal:
            self._bar(event)
        elif time.monotonic() - self._spoke > QUIET_SECONDS:
            self._line(_progress_line(event))

    def close(self) -> None:
        """Take the bars off the screen."""
        if self._bars is not None:
            self._bars.stop()
            self._bars, self._task = None, None

    def _line(self, text: str) -> None:
        self._spoke = time.monotonic()
        to = self._bars.console if self._bars is not None else self.err
        to.print(text, markup=False, highlight=False, soft_wrap=not to.is_terminal)

    def _bar(self, event: events.Progress) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        if self._bars is None:
            whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
            # The figures come last: a narrow terminal cuts them and keeps the bar, the count and the time left.
            columns = (
                TextColumn("{task.description}", table_column=whole),
                BarColumn(bar_width=12),
                TextColumn("{task.fields[count]}", table_column=whole),
                TimeRemainingColumn(table_column=whole),
                TextColumn("{task.fields[figures]}", table_column=rest),
            )
            self._bars = Progress(*columns, console=self.err, transient=True, expand=True)
            self._bars.start()
        figures = "  ".join(part for part in (self._validated, _figures_line(event)) if part)
        if self._task is None or self._task[0] != event.phase:
            if self._task is not None:
                self._bars.remove_task(self._task[1])
            self._task = (
                event.phase,
                self._bars.add_task(_STAGES[event.phase], total=event.total, figures="", count=""),
            )
        shown = {"completed": event.done, "total": event.total, "figures": figures, "count": _count_line(event)}
        self._bars.update(self._task[1], **shown)

    def _show(self, part: Any, *, to: Console | None = None) -> None:
        to = to or self.out
        if isinstance(part, str):
            to.print(part, markup=False, highlight=False, soft_wrap=not to.is_terminal)
        else:
            # A table that is wider than the terminal runs over: a cut number would be another number.
            wide, kept = Measurement.get(to, to.options.update(max_width=10_000), part).maximum, to.width
            if any(not column.no_wrap for column in part.columns):
                # Columns of text give way; below this width they would be a letter wide.
                wide = min(wide, max(kept, 72))
            to.width = max(wide, kept)
            with to.capture() as drawn:
                to.print(part, crop=False, soft_wrap=wide > kept)
            to.width = kept
            # Cells are filled up with blanks, which only a terminal does not show.
            lines = drawn.get().splitlines(keepends=True)
            to.file.write("".join(lines if to.is_terminal else [f"{line.rstrip()}\n" for line in lines]))


def _console(stream: Any, plain: bool) -> Console:
    # All said outright: rich would follow CI variables, and cut cells at 80 columns without a terminal.
    terminal = stream.isatty()
    return Console(
        file=stream,
        width=None if terminal else 500,
        force_terminal=terminal,
        color_system="auto" if terminal and not plain else None,
        no_color=plain or not terminal,
    )


def _epoch_line(event: events.EpochEnded) -> str:
    parts = [f"epoch {event.epoch}/{event.epochs}"]
    for name, value in event.metrics.items():
        if name in ("epoch", "step"):
            continue
        short = name.removeprefix("losses.")
        shown = f"{value:.3g}" if name == "learning_rate" else f"{value:.4f}"
        parts.append(f"{short} {value:.0f}" if name == "examples_per_second" else f"{short} {shown}")
    return "  ".join(parts) + ("  best" if event.best else "")


def _validation_text(event: events.EpochEnded) -> str:
    figures = [(n, v) for n, v in event.metrics.items() if n.startswith("validation.")]
    return f"{figures[0][0]} {figures[0][1]:.4f}" if figures else ""


def _count_line(event: events.Progress) -> str:
    count = f"{event.done}/{event.total} {event.unit}"
    return count if event.epoch is None else f"epoch {event.epoch}/{event.epochs}  {count}"


def _figures_line(event: events.Progress) -> str:
    figures = dict(event.metrics)
    rate = figures.pop("examples_per_second", None)
    parts = [] if rate is None else [f"{rate:.0f} examples/s"]
    return "  ".join([*parts, *(f"{name} {value:.4f}" for name, value in figures.items())])


def _progress_line(event: events.Progress) -> str:
    stage = _STAGES.get(event.phase, event.phase) if event.epoch is None else ""
    return "  ".join(part for part in (stage, _count_line(event), _figures_line(event)) if part)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Sequence[str] = ()) -> Any:
    """A table whose first column is a name and whose others are figures; nothing in it is cut.

    Columns in `texts` are sentences: on a narrow terminal they go on in the next line.
    """
    from rich.table import Table

    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        wraps = name in texts
        side: Any = "left" if wraps or number == 0 else "right"
        made.add_column(name, justify=side, no_wrap=not wraps, overflow="fold" if wraps else "ignore")
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made


def _targets_line(targets: dict[str, Any]) -> str:
    views = "a new view every epoch" if targets["views"] == "all" else f"{targets['views']} views"
    views = "one view" if targets["views"] == 1 else views
    size = "" if targets["mode"] == "live" else f", {targets['bytes']} bytes"
    return f"targets   {targets['mode']}, {targets['precision']}, {views}{size}: {targets['why']}"


def scale_text(scale: str | dict[str, Any]) -> str:
    """An input scale of a plan for a person."""
    if isinstance(scale, str):
        return scale
    mean, deviation = (", ".join(f"{value:g}" for value in scale[name]) for name in ("mean", "deviation"))
    return f"mean {mean}, deviation {deviation}"


def _side_text(side: dict[str, Any]) -> str:
    """One model of a plan in a line."""
    scales = {f", scale {scale_text(entry['scale'])}" for entry in side["input"].values() if entry["scale"]}
    sizes = {f", resized to {e['resize'][0]}×{e['resize'][1]}" for e in side["input"].values() if e["resize"]}
    count = "an unknown number of" if side["parameters"] is None else side["parameters"]
    text = f"{count} parameters, weights {side['start']}, {side['output_kind']}"
    text += f", logits {side['logits_from']}" if side["logits_from"] != "output" else ""
    text += f", {side['flops']} FLOPs" if side.get("flops") else ""
    if side.get("latency"):
        text += f", {side['latency']['p50_ms']:.3g} ms an example ({side['latency']['runtime']}, batch 1)"
    return f"{side['name']}: {text}{''.join([*sorted(scales), *sorted(sizes)])}"


def _format_lines(formats: dict[str, str]) -> list[str]:
    """To what the trained model can be exported, and why not to the others."""
    possible = ", ".join(kind for kind, state in formats.items() if state == "yes")
    others = [f"exports   {kind}: {state}" for kind, state in formats.items() if state != "yes"]
    return [f"exports   {possible}", *others] if possible else others


def plan_parts(plan: Any, *, whole: bool) -> list[Any]:
    """The plan for a person; `whole` adds every setting with its origin."""
    data = plan.data
    splits = ", ".join(f"{data[name]} {name}" for name in ("train", "validation", "test") if data[name])
    noun = "output" if data["outputs"] == 1 else "outputs"
    lines = [f"data      {data['name']}: {splits}; {data['task']}, {data['outputs']} {noun}"]
    for role, side in (("teacher", plan.teacher), ("student", plan.student)):
        several = side.get("members", ()) if side else ()
        lines += [f"{role:9} {side['name']}: {side['parameters']} parameters in all"] if several else []
        lines += [f"{role:9} {_side_text(one)}" for one in several or (side,) if one]
    for pair in plan.pairs:
        through = [text for text in (pair["projection"], pair["parts"]) if text]
        how = f" ({'; '.join(through)})" if through else ""
        chosen = f", paired automatically: {pair['why']}" if pair["automatic"] else ""
        sides = f"student {pair['student']} → teacher {pair['teacher']}"
        lines.append(f"pair      {pair['loss']}: {sides}{how}{chosen}")
    if plan.targets:
        lines.append(_targets_line(plan.targets))
    epochs, steps = (f"{n} {word}{'s' * (n != 1)}" for n, word in ((plan.epochs, "epoch"), (plan.steps, "step")))
    lines.append(f"training  {epochs}, {steps}")
    for stage, seconds in plan.seconds.items():
        if seconds is not None:
            lines.append(f"seconds   {stage}: about {seconds}")
    weights = ", ".join(f"{name} {size} bytes" for name, size in plan.student_bytes.items())
    lines.append(f"memory    about {plan.memory_bytes} bytes; the trained weights as {weights}")
    lines.extend(_format_lines(plan.student_formats))
    lines.extend(f"note      {finding}" for finding in plan.findings)
    rows = [[row["path"], str(row["value"]), row["origin"]] for row in plan.settings]
    return [*lines, table("", ("setting", "value", "origin"), rows)] if whole else lines
