"""The expected failures of kd, each with its exit code. Any other exception that escapes is a bug in kd."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from difflib import get_close_matches
from pathlib import Path

# Characters of a long line that are shown on each side of a fault.
_EXCERPT_CHARACTERS = 60


def find_nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, or None if none is close."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `"did you mean 'x'? "` for the closest known name, or an empty string."""
    close = find_nearest_name(name, known)
    return f"did you mean {close!r}? " if close else ""


# Lines of Keras and TensorFlow that name the call and its place in a file; the reason follows them.
_CALL_LINES = re.compile(
    r"Exception encountered when calling|Graph execution error|Detected at node|in user code:"
    r"|Arguments received by|File \"|\[\[|.*Error encountered:$|Traceback |<stack traces"
)
# Parts that they and onnxruntime add to the reason: colours, node and operation names, their own files.
_NOISE = re.compile(
    r"\x1b\[[0-9;]*m| for '\{\{node [^']*'|\{\{[^}]*\}\} ?|\s*\[Op:.*| with name 'None'| for '[^']* = \w+\[.*"
    r"|\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed:|/onnxruntime_src/.*\) (?=[A-Z])"
)


def summarize_error(error: BaseException | str) -> str:
    """Return the reason that a library's error gives, in one line; the class of an error without a message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # A position (`File "..."`) is followed by the source line, indented further.
    source = [
        before.lstrip().startswith('File "') and _indent(line) > _indent(before)
        for before, line in zip(["", *lines], lines, strict=False)
    ]
    reasons = [
        _NOISE.sub("", line).strip() for line, is_source in zip(lines, source, strict=True) if not is_source
    ]
    reasons = [line for line in reasons if line]
    default = reasons[0] if reasons else type(error).__name__
    return next((line for line in reasons if not _CALL_LINES.match(line)), default)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


class KdError(Exception):
    """An expected failure: a one-line message with place and reason, a hint with the next step, an exit code."""

    exit_code = 1
    kind = "internal"

    def __init__(self, message: str, *, hint: str | None = None, location: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.location = location


class UsageError(KdError):
    """Incorrect use of a command or of the library; nothing was run."""

    exit_code = 2
    kind = "usage"


@dataclass(frozen=True)
class Fault:
    """One fault of a recipe.

    Args:
        setting: dotted path of the setting, such as `losses.1.weight`; empty for the whole text.
        message: what is wrong.
        suggestion: what to write instead.
        line, column: position in the text, from 1.
        excerpt: the line of the text.
        origin: the option that set the value, if it does not come from the text.
    """

    setting: str
    message: str
    _: KW_ONLY
    suggestion: str | None = None
    line: int | None = None
    column: int | None = None
    excerpt: str | None = None
    origin: str | None = None


class RecipeError(UsageError):
    """A recipe with faults. All faults are collected before the error is raised."""

    kind = "recipe"

    def __init__(self, source: str, faults: tuple[Fault, ...], *, hint: str | None = None) -> None:
        first = faults[0]
        location = f"{source}:{first.line}:{first.column}" if first.line else first.origin or source
        count = "1 problem" if len(faults) == 1 else f"{len(faults)} problems"
        lines = [f"{count} in {source}"]
        width = max((len(_format_position(source, fault)) for fault in faults if fault.line), default=0)
        for fault in faults:
            lines.extend(_format_fault(source, fault, width))
        super().__init__("\n".join(lines), hint=hint, location=location)
        self.source = source
        self.faults = faults


def _format_position(source: str, fault: Fault) -> str:
    return f"{source}:{fault.line}:{fault.column or 1}"


def _format_fault(source: str, fault: Fault, width: int) -> list[str]:
    subject = f"{fault.setting}: " if fault.setting else ""
    if fault.line is None:
        origin = f"{fault.origin} " if fault.origin else ""
        suggestion = f" ({fault.suggestion})" if fault.suggestion else ""
        return [f"  {origin}{subject}{fault.message}{suggestion}"]
    lines = [f"  {_format_position(source, fault):{width}} {subject}{fault.message}"]
    if fault.excerpt is None:
        suggestion = f" ({fault.suggestion})" if fault.suggestion else ""
        return [lines[0] + suggestion]
    # Only the part of a very long line around the fault is shown.
    column = fault.column or 1
    start = max(0, column - 1 - _EXCERPT_CHARACTERS) if len(fault.excerpt) > 2 * _EXCERPT_CHARACTERS else 0
    text = fault.excerpt[start : start + 2 * _EXCERPT_CHARACTERS].rstrip("\n")
    before = column - 1 - start
    token = re.match(r"""("[^"]*"|'[^']*'|[^\s,:#\]}]*)""", text[before:])
    pointer = "^" * (len(token.group()) if token and token.group() else 1)
    margin = f"     {fault.line} | "
    lines.append(f"{margin}{text}")
    lines.append(f"{' ' * (len(margin) - 2)}| {' ' * before}{pointer} {fault.suggestion or ''}".rstrip())
    return lines


class DataError(KdError):
    """Data that is missing or invalid: a wrong shape, a label out of range, NaN, an empty split."""

    exit_code = 3
    kind = "data"


class ModelError(KdError):
    """A model that is missing, unreadable, or does not fit the data, the recipe or the command."""

    exit_code = 4
    kind = "model"


class LatencyCommandError(ModelError):
    """A command that should measure a file failed: the measurement is at fault, not the model."""


class StorageError(KdError):
    """A file that cannot be written or trusted: disk full, permission denied, locked, corrupt."""

    exit_code = 5
    kind = "storage"


class LockedError(StorageError):
    """A directory that another process is using."""


class TrainingError(KdError):
    """Training that cannot continue: a value that is not finite, or out of memory."""

    exit_code = 6
    kind = "training"


class WorkerLostError(TrainingError):
    """One of several workers has stopped.

    Args:
        run: the directory that `--resume` continues, as for `Interrupted`.
    """

    def __init__(self, message: str, *, run: Path) -> None:
        super().__init__(message)
        self.run = run


class Interrupted(KdError):
    """Stopped from outside after saving: by a signal (exit code 130 or 143) or at `--max-time` (143).

    Args:
        run: the directory that `--resume` continues; None if nothing was saved.
        hint: if omitted, the command line names the command that resumes.
    """

    kind = "interrupted"

    def __init__(self, message: str, *, exit_code: int, run: Path | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.run = run
