"""Every failure that kd expects, each with its exit code. Anything else that escapes is a bug in kd."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

# Characters shown on each side of a fault in a long line.
_AROUND = 60


def find_nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, or None."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"did you mean 'x'? "` for the nearest known name, or nothing."""
    close = find_nearest_name(name, known)
    return f"did you mean {close!r}? " if close else ""


# What Keras and TensorFlow write before what happened: which call, and where in which file.
_CALLS = re.compile(
    r"Exception encountered when calling|Graph execution error|Detected at node|in user code:"
    r"|Arguments received by|File \"|\[\[|.*Error encountered:$|Traceback |<stack traces"
)
# What they and onnxruntime write into it: colours, names of nodes and operations, files of their own.
_NODES = re.compile(
    r"\x1b\[[0-9;]*m| for '\{\{node [^']*'|\{\{[^}]*\}\} ?|\s*\[Op:.*| with name 'None'| for '[^']* = \w+\[.*"
    r"|\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed:|/onnxruntime_src/.*\) (?=[A-Z])"
)


def summarize_error(error: BaseException | str) -> str:
    """What a library's error says, without calls, nodes and what follows; its class if it says nothing."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # Below a position stands the line of the source, further in.
    source = [
        before.lstrip().startswith('File "') and _indent(line) > _indent(before)
        for before, line in zip(["", *lines], lines, strict=False)
    ]
    said = [_NODES.sub("", line).strip() for line, is_source in zip(lines, source, strict=True) if not is_source]
    said = [line for line in said if line]
    return next((line for line in said if not _CALLS.match(line)), said[0] if said else type(error).__name__)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class KdError(Exception):
    """An expected failure: one line that says what and where, a hint with the way on, an exit code."""

    exit_code = 1
    kind = "internal"

    def __init__(self, message: str, *, hint: str | None = None, location: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.location = location


class UsageError(KdError):
    """Wrong use of a command or of the library; nothing was run."""

    exit_code = 2
    kind = "usage"


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a recipe, with the place that a person can go to."""

    setting: str
    message: str
    suggestion: str | None = None
    line: int | None = None
    column: int | None = None
    excerpt: str | None = None
    origin: str | None = None


class RecipeError(UsageError):
    """A recipe with faults; all of them are found before this is raised."""

    kind = "recipe"

    def __init__(self, source: str, faults: tuple[Fault, ...], *, hint: str | None = None) -> None:
        first = faults[0]
        place = f"{source}:{first.line}:{first.column}" if first.line else first.origin or source
        count = "1 problem" if len(faults) == 1 else f"{len(faults)} problems"
        lines = [f"{count} in {source}"]
        width = max((len(_place_of(source, fault)) for fault in faults if fault.line), default=0)
        for fault in faults:
            lines.extend(_fault_lines(source, fault, width))
        super().__init__("\n".join(lines), hint=hint, location=place)
        self.source = source
        self.faults = faults


def _place_of(source: str, fault: Fault) -> str:
    return f"{source}:{fault.line}:{fault.column or 1}"


def _fault_lines(source: str, fault: Fault, width: int) -> list[str]:
    subject = f"{fault.setting}: " if fault.setting else ""
    if fault.line is None:
        place = f"{fault.origin} " if fault.origin else ""
        suggestion = f" ({fault.suggestion})" if fault.suggestion else ""
        return [f"  {place}{subject}{fault.message}{suggestion}"]
    lines = [f"  {_place_of(source, fault):{width}} {subject}{fault.message}"]
    if fault.excerpt is None:
        suggestion = f" ({fault.suggestion})" if fault.suggestion else ""
        return [lines[0] + suggestion]
    # Of a very long line only what is around the fault is shown.
    column = fault.column or 1
    start = max(0, column - 1 - _AROUND) if len(fault.excerpt) > 2 * _AROUND else 0
    text = fault.excerpt[start : start + 2 * _AROUND].rstrip("\n")
    before = column - 1 - start
    token = re.match(r"""("[^"]*"|'[^']*'|[^\s,:#\]}]*)""", text[before:])
    pointer = "^" * (len(token.group()) if token and token.group() else 1)
    margin = f"     {fault.line} | "
    lines.append(f"{margin}{text}")
    lines.append(f"{' ' * (len(margin) - 2)}| {' ' * before}{pointer} {fault.suggestion or ''}".rstrip())
    return lines


class DataError(KdError):
    """Data that is missing or cannot be right: shape, label, NaN, empty split."""

    exit_code = 3
    kind = "data"


class ModelError(KdError):
    """A model that is missing, unreadable, or does not fit what is asked of it."""

    exit_code = 4
    kind = "model"


class StorageError(KdError):
    """A file that cannot be written or trusted: disk full, no permission, locked, corrupt."""

    exit_code = 5
    kind = "storage"


class LockedError(StorageError):
    """A directory in which another process works."""


class TrainingError(KdError):
    """Training that cannot go on: a value that is not finite, memory that ran out."""

    exit_code = 6
    kind = "training"


class WorkerLostError(TrainingError):
    """One of several workers is gone; `run` is the directory that `--resume` continues, as after `Interrupted`."""

    def __init__(self, message: str, *, run: Path) -> None:
        super().__init__(message)
        self.run = run


class Interrupted(KdError):
    """Stopped from outside after saving: by a signal (130, 143) or at `--max-time` (143).

    `run` is the directory that `--resume` continues, None when nothing was kept. Without a hint the command line
    names the command that goes on.
    """

    kind = "interrupted"

    def __init__(self, message: str, *, exit_code: int, run: Path | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.run = run
