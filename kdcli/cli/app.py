"""The `kd` command: registers all subcommands, and turns errors into messages and exit codes."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kdcli import __version__
from kdcli.cli import (
    cache,
    compare,
    compress,
    demo,
    distill,
    doctor,
    evaluate,
    export,
    inspect,
    losses,
    predict,
    quantize,
    recipes,
    shrink,
    train_teacher,
)
from kdcli.cli.groups import flatten
from kdcli.cli.interrupts import make_resume_command
from kdcli.cli.options import FOREIGN
from kdcli.cli.repeated_options import SingleOptions
from kdcli.errors import Interrupted, KdError, UsageError, WorkerLostError

app = typer.Typer(
    name="kd",
    help="Turn a large saved model into a small one by knowledge distillation.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "train-teacher": train_teacher.command,
    "compress": compress.command,
    "shrink": shrink.command,
    "distill": distill.command,
    "evaluate": evaluate.command,
    "compare": compare.command,
    "quantize": quantize.command,
    "export": export.command,
    "predict": predict.command,
    "inspect": inspect.command,
    "demo": demo.command,
    "doctor": doctor.command,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=SingleOptions)(flatten(_command))
app.add_typer(recipes.app, name="recipes")
app.add_typer(losses.app, name="losses")
app.add_typer(cache.app, name="cache")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"kd {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """The entry point of the `kd` command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code. An expected error prints one line and a hint."""
    try:
        code = app(list(arguments), prog_name="kd", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KdError as error:
        _print_error(arguments, error, error.exit_code, error.kind, error.message, error.hint, error.location)
        return error.exit_code
    except typer.Exit as ending:
        return ending.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SystemExit as ending:
        # Typer and rich turn a closed pipe into exit code 1.
        if isinstance(ending.__context__, BrokenPipeError):
            return _silence_stdout()
        return ending.code if isinstance(ending.code, int) else 1
    except BrokenPipeError:
        return _silence_stdout()
    except Exception as error:
        if _is_usage_error(error):
            message = _format_usage_error(error, arguments)
            if not message:
                # A group without a command has printed its help.
                return 0
            _print_error(arguments, error, 2, "usage", message, _find_hint(arguments, error), None)
            return 2
        message = f"this is a bug in kd {__version__}: {type(error).__name__}: {error}"
        hint = f"please report it and attach {_write_log(error)}"
        _print_error(arguments, error, 1, "internal", message, hint, None)
        return 1


def _silence_stdout() -> int:
    """Drop the rest of the output, whose reader has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _is_usage_error(error: Any) -> bool:
    # The class of Typer's usage errors is not public in every supported version.
    return hasattr(error, "format_message") and type(error).__module__.startswith("typer")


# Typer's phrases for the expected value, and kd's.
_EXPECTED = (
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("greater than or equal to ", ">= "),
    ("greater than ", "> "),
    ("less than or equal to ", "<= "),
    ("less than ", "< "),
)


def _format_usage_error(error: Any, arguments: Sequence[str]) -> str:
    text = str(error.format_message())
    wrong = re.match(r"Invalid value for '([^']+)': Input should be ([^,]+)", text)
    if wrong is None:
        return text
    name, expected = wrong.groups()
    for theirs, ours in _EXPECTED:
        expected = expected.replace(theirs, ours)
    return f"{name} must be {expected}{_find_value(name, arguments)}"


def _find_value(option: str, arguments: Sequence[str]) -> str:
    """`, got 'x'`: the value of an option on the command line, which Typer's error lacks."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == option or word.startswith(f"{option}="):
            return f", got {word[len(option) + 1 :] or following!r}"
    return ""


def _find_hint(arguments: Sequence[str], error: Any) -> str:
    for word in arguments:
        name = word.split("=")[0]
        # The same name may be an option of another command, and not every command takes kd's option.
        if name in FOREIGN and f"No such option: {name}" in _format_usage_error(error, arguments):
            ours = FOREIGN[name]
            known = {option for one in error.ctx.command.params for option in one.opts}
            if not ours.startswith("--") or ours.split()[0] in known:
                return ours
    entries: list[Any] = [*app.registered_commands, *app.registered_groups]
    names = [entry.name for entry in entries]
    commands = [word for word in arguments if word in names][:1]
    return " ".join(["kd", *commands, "--help"])


def _print_error(
    arguments: Sequence[str],
    error: BaseException,
    code: int,
    kind: str,
    message: str,
    hint: str | None,
    location: str | None,
) -> None:
    if isinstance(error, Interrupted | WorkerLostError):
        hint = hint or make_resume_command(arguments, error)
    # A traceback does not help with a typing error.
    if "--verbose" in arguments and code != UsageError.exit_code:
        traceback.print_exception(error)
    # Not with rich: an error in a recipe is reported before anything slow is imported.
    colored = sys.stderr.isatty() and "--no-color" not in arguments and not os.environ.get("NO_COLOR")
    bold, red, end = ("\033[1m", "\033[1;31m", "\033[0m") if colored else ("", "", "")
    print(f"{red}error:{end} {message}", file=sys.stderr)
    if hint:
        print(f"{bold}hint:{end} {hint}", file=sys.stderr)
    if "--json" in arguments:
        details = {"exit_code": code, "kind": kind, "message": message, "hint": hint, "location": location}
        print(json.dumps({"schema": "kd.error/1", "error": details}, indent=2))


def _write_log(error: BaseException) -> Path:
    import platformdirs

    folder = Path(platformdirs.user_log_dir("kdcli", ensure_exists=True))
    path = folder / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    path.write_text("".join(traceback.format_exception(error)), "utf-8")
    return path
