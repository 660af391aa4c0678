"""The latency of a file as a command measures it, such as on a phone."""

from __future__ import annotations

import math
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kdcli.errors import LatencyCommandError, UsageError
from kdcli.evaluation.latency.session_statistics import Samples, Session

PLACEHOLDER = "{file}"
# A command that takes longer is stopped.
_LIMIT_SECONDS = 600


def check_latency_command(command: str) -> None:
    """Refuse a command that does not name the file.

    Raises:
        UsageError: `{file}` is missing, or a quotation mark is not closed.
    """
    if PLACEHOLDER not in command:
        raise UsageError(
            f"--latency-command {command!r}: {PLACEHOLDER} is missing; it stands for the file's path",
            hint=f"--latency-command './on_phone.sh {PLACEHOLDER}'",
        )
    try:
        shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--latency-command {command!r}: {str(error).lower()}") from None


def time_by_command(command: str, files: Mapping[str, Path]) -> Session:
    """Run a command once on each file; the results stand for a session on this machine.

    Args:
        command: as in `run_latency_command`.
        files: by the name in the session.

    Raises:
        LatencyCommandError: the command fails or prints no milliseconds.
    """
    runtime = Path(shlex.split(command)[0]).name
    known: dict[Path, float] = {}
    for file in files.values():
        if file not in known:
            known[file] = run_latency_command(command, file)
    blocks = {name: (np.array([known[file] * 1e6]),) for name, file in files.items()}
    return Session(0, {name: Samples(runtime, 0, 1, block) for name, block in blocks.items()})


def run_latency_command(command: str, file: Path) -> float:
    """Run a command on a file, and read the milliseconds that it prints last.

    Args:
        command: words as in a shell, without pipes; `{file}` is replaced by the path.
        file: the model file.

    Raises:
        LatencyCommandError: the command fails, takes more than ten minutes, or prints no number above 0.
    """
    words = [word.replace(PLACEHOLDER, str(file)) for word in shlex.split(command)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = error.strerror if isinstance(error, OSError) else f"took more than {_LIMIT_SECONDS} s"
        raise LatencyCommandError(
            f"--latency-command {words[0]}: {reason}", hint="run it on its own first"
        ) from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise LatencyCommandError(
            f"--latency-command {words[0]}: exit code {done.returncode}: {last:.200}",
            hint="run it on its own first",
        )
    printed = done.stdout.split()
    try:
        milliseconds = float(printed[-1])
    except (IndexError, ValueError):
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        shown = printed[-1] if printed else "nothing"
        raise LatencyCommandError(
            f"--latency-command {words[0]}: the last word printed must be milliseconds above 0 (got {shown:.50})",
            hint="print a number such as 3.2 last",
        )
    return milliseconds
