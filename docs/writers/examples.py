"""Runs the examples in the documentation, in order, and writes what they print.

A page holds these steps:

- a `console` block: each line that begins with `$ kd` is run, and what it prints replaces the lines below it;
- `<!-- run -->` above a `python` block runs it; `<!-- file: NAME -->` above any block writes it to that file;
- `<!-- run: exit=4 lines=12 -->` above a `console` block: the exit code that its last command ends with, and how
  many lines of each output are shown; `commands=1`: only its first line is a command, later lines that begin with
  `$` are output; `stages=1`: of the output only the commands that it names and the tables at its end are shown;
- `<!-- hidden: COMMAND -->` runs a command that the page does not show;
- `<!-- hidden python ... -->` runs Python that the page does not show.

The pages of a group share one folder, so that later pages use the models of earlier ones.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# The order in which pages run. The pages of one group share a folder: later ones use the models of earlier ones.
_COMMANDS = (
    "train-teacher",
    "distill",
    "shrink",
    "quantize",
    "export",
    "evaluate",
    "compare",
    "predict",
    "inspect",
    "cache",
    "compress",
)
GROUPS = {
    "quickstart": ("docs/quickstart.md",),
    "commands": tuple(f"docs/commands/{name}.md" for name in (*_COMMANDS, "recipes", "losses", "doctor", "demo")),
}
PICTURE, PICTURE_PAGE, PICTURE_WIDTH = "docs/kd-demo.svg", "docs/commands/demo.md", 118
_STEP = re.compile(
    r"<!-- hidden python\n(?P<hidden>.*?)-->\n"
    r"|<!-- hidden: (?P<command>[^>]*) -->\n"
    r"|(?:<!-- (?P<does>run|file)(?:: (?P<detail>[^>]*))? -->\n)?```(?P<language>\w+)\n(?P<body>.*?)```\n",
    re.DOTALL,
)
_EPOCH, _RUN = re.compile(r"epoch (\d+)/(\d+) "), re.compile(r"run (\d+) of (\d+)")

# Runs a command line of `kd` in a folder: its words without `kd` give the exit code and everything printed.
Run = Callable[[Sequence[str], Path], tuple[int, str]]
# Runs Python code in a folder.
RunPython = Callable[[str, Path], None]


@dataclass(frozen=True)
class Example:
    """One command that a page shows.

    Args:
        command: the line without `$ `.
        output: the lines below it.
    """

    command: str
    output: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The command's words without `kd`."""
        return shlex.split(self.command, comments=True)[1:]


@dataclass(frozen=True)
class Step:
    """One step of a page.

    Args:
        span: where it is in the page's text.
        file: the file that is written; None for none.
        python: the Python code that is run; None for none.
        examples: the commands that are run.
        hidden: whether the page does not show them.
        exit_code: what the last command ends with.
        lines: how many lines of each output are shown; None for all.
    """

    span: tuple[int, int]
    file: str | None = None
    text: str = ""
    python: str | None = None
    examples: tuple[Example, ...] = ()
    hidden: bool = False
    options: dict[str, int] = field(default_factory=dict)

    @property
    def exit_codes(self) -> list[int]:
        """The expected exit code of each command."""
        return [0] * (len(self.examples) - 1) + [self.options.get("exit", 0)] if self.examples else []


def steps(page: str) -> Iterator[Step]:
    """Every step of a page, in order."""
    for match in _STEP.finditer(page):
        span, body = match.span(), match["body"] or ""
        if match["hidden"]:
            yield Step(span, python=match["hidden"], hidden=True)
        elif match["command"]:
            yield Step(span, examples=(Example(match["command"], ()),), hidden=True)
        elif match["does"] == "file":
            yield Step(span, file=match["detail"], text=body)
        elif match["language"] == "python" and match["does"]:
            yield Step(span, python=body)
        elif match["language"] == "console":
            pairs = [pair.split("=") for pair in (match["detail"] or "").split()]
            options = {name: int(value) for name, value in pairs}
            yield Step(span, examples=_examples(body, options.get("commands", 99)), options=options)


def _examples(body: str, commands: int) -> tuple[Example, ...]:
    found: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line.startswith("$ ") and len(found) < commands:
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return tuple(Example(command, tuple(output)) for command, output in found)


def run_page(page: str, folder: Path, *, run: Run, run_python: RunPython) -> str:
    """Run every step of a page in a folder; gives the page with the new outputs.

    Raises:
        RuntimeError: a command ends with another exit code than the page says.
    """
    parts, at = [], 0
    for step in steps(page):
        if step.file is not None:
            (folder / step.file).write_text(step.text, "utf-8")
        if step.python is not None:
            run_python(step.python, folder)
        blocks = []
        for example, expected in zip(step.examples, step.exit_codes, strict=True):
            code, output = run(example.words, folder)
            if code != expected:
                raise RuntimeError(f"exit code {code}, expected {expected}: {example.command}\n{output}")
            output = keep_stages(output) if "stages" in step.options else output
            blocks.append(f"$ {example.command}\n{shorten(output, step.options.get('lines'))}")
        if blocks and not step.hidden:
            start = page.index("```console\n", step.span[0]) + len("```console\n")
            parts += [page[at:start], *blocks]
            at = step.span[1] - len("```\n")
    return "".join([*parts, page[at:]])


def keep_stages(output: str) -> str:
    """Of a command that trains: the commands that it runs, and everything from the table of candidates on."""
    lines = output.splitlines()
    table = max((number for number, line in enumerate(lines) if line == "candidates"), default=0)
    return "\n".join([*(line for line in lines[:table] if line.startswith("$ ")), *lines[table:]])


def shorten(output: str, lines: int | None = None) -> str:
    """An output as a page shows it: the first and the last of many epochs or runs, and at most `lines` lines."""
    found = _ends(_ends(output.splitlines(), _RUN), _EPOCH)
    if lines is not None and len(found) > lines:
        found = [*found[:lines], "..."]
    return "".join(f"{line.rstrip()}\n" for line in found)


def _ends(lines: Sequence[str], counter: re.Pattern[str]) -> list[str]:
    """Of each series `1 of N` to `N of N`, with the lines that follow a member, the first and the last."""
    found: list[str] = []
    skipping = False
    for line in lines:
        match = counter.match(line)
        if match:
            number, count = int(match[1]), int(match[2])
            if number == 2 and count > 2:
                found.append("...")
            skipping = 1 < number < count
        if not skipping:
            found.append(line)
    return found


def run_command(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run `kd` as a user does, in a process of its own; the home folder is written as `~`."""
    done = subprocess.run(
        [sys.executable, "-m", "kdcli", *words],
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.replace(str(folder.parent), "~")


def run_code(python: str, folder: Path) -> None:
    """Run Python code in a process of its own."""
    words = [sys.executable, "-c", python]
    subprocess.run(words, cwd=folder, env=_environment(folder), check=True, capture_output=True)


def _environment(folder: Path) -> dict[str, str]:
    """As a user has it whose home folder holds the folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KD_", "XDG_", "GITHUB_"))}
    return {**kept, "HOME": str(folder.parent), "PYTHONUNBUFFERED": "1"}


def write(root: Path) -> None:
    """Run all pages and write their outputs, and the picture of `kd demo`."""
    with tempfile.TemporaryDirectory() as scratch:
        for group, names in GROUPS.items():
            folder = Path(scratch) / group / "work"
            folder.mkdir(parents=True)
            for name in names:
                print(name, flush=True)
                page = (root / name).read_text("utf-8")
                (root / name).write_text(run_page(page, folder, run=run_command, run_python=run_code), "utf-8")
    (root / PICTURE).write_text(draw((root / PICTURE_PAGE).read_text("utf-8")), "utf-8")


def draw(page: str) -> str:
    """An SVG picture of the first example of a page."""
    from rich.console import Console
    from rich.text import Text

    example = next(step.examples[0] for step in steps(page) if step.examples)
    console = Console(record=True, width=PICTURE_WIDTH, file=open(os.devnull, "w", encoding="utf-8"))
    console.print(Text(f"$ {example.command}", style="bold green"))
    for line in example.output:
        style = "dim" if line.startswith("$ ") else "bold" if line.startswith("candidate ") else ""
        text = line if len(line) <= PICTURE_WIDTH else line[: PICTURE_WIDTH - 1] + "…"
        # Spaces that a picture keeps.
        console.print(Text(text.replace(" ", "\u00a0"), style=style))
    # Without rich's web fonts: a picture that loads nothing from elsewhere.
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="kd demo"), flags=re.DOTALL)
