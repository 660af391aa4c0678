"""`kd`: registers the commands, and is the one place where an error becomes words and an exit code."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kdcli import __version__
from kdcli.cli import (
    cache,
    compare,
    demo,
    distill,
    doctor,
    evaluate,
    export,
    inspect,
    losses,
    predict,
    recipes,
    train_teacher,
)
from kdcli.cli.groups import flatten
from kdcli.cli.options import FOREIGN
from kdcli.cli.repeated_options import SingleOptions
from kdcli.errors import Interrupted, KdError, UsageError, WorkerLostError

app = typer.Typer(
    name="kd",
    help="Turn a large saved model into a small one by knowledge distillation.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("train-teacher", cls=SingleOptions, help="Train a teacher on labels.")(flatten(train_teacher.command))
app.command("distill", cls=SingleOptions, help="Train a student under a teacher.")(flatten(distill.command))
app.command("evaluate", cls=SingleOptions, help="Measure models on one split.")(flatten(evaluate.command))
app.command("compare", cls=SingleOptions, help="Tell whether distillation beats the student alone.")(
    flatten(compare.command)
)
app.command("export", cls=SingleOptions, help="Write a model as files that ship.")(flatten(export.command))
app.command("predict", cls=SingleOptions, help="Write a model's answers to a file.")(flatten(predict.command))
app.command("inspect", cls=SingleOptions, help="Look into a model: shapes, parameters, FLOPs, taps.")(
    flatten(inspect.command)
)
app.command("demo", cls=SingleOptions, help="Show the whole story on embedded data, offline.")(demo.command)
app.command("doctor", cls=SingleOptions, help="Versions, devices, missing extras.")(doctor.command)
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
    """Run a command line; gives the exit code. Every expected failure is one line, a hint and a code."""
    try:
        code = app(list(arguments), prog_name="kd", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KdError as error:
        _show(arguments, error, error.exit_code, error.kind, error.message, error.hint, error.location)
        return error.exit_code
    except typer.Exit as ending:
        return ending.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SystemExit as ending:
        # Typer and rich make an exit with 1 of a closed pipe.
        if isinstance(ending.__context__, BrokenPipeError):
            return _unread()
        return ending.code if isinstance(ending.code, int) else 1
    except BrokenPipeError:
        return _unread()
    except Exception as error:
        if _is_usage(error):
            message = _words_of(error, arguments)
            if not message:
                # A group without a command has shown its help.
                return 0
            _show(arguments, error, 2, "usage", message, _hint_for(arguments, error), None)
            return 2
        message = f"this is a bug in kd {__version__}: {type(error).__name__}: {error}"
        _show(arguments, error, 1, "internal", message, f"please report it with {_log(error)}", None)
        return 1


def _unread() -> int:
    """Whoever read our output has gone; there is nobody left to tell."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _is_usage(error: Any) -> bool:
    # Typer's own usage errors; their class has no public name in every supported version.
    return hasattr(error, "format_message") and type(error).__module__.startswith("typer")


# How Typer words a value that is none of its type, and how kd does.
_TYPER = (
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("greater than or equal to ", ">= "),
    ("greater than ", "> "),
    ("less than or equal to ", "<= "),
    ("less than ", "< "),
)


def _words_of(error: Any, arguments: Sequence[str]) -> str:
    words = str(error.format_message())
    wrong = re.match(r"Invalid value for '([^']+)': Input should be ([^,]+)", words)
    if wrong is None:
        return words
    name, expected = wrong.groups()
    for theirs, ours in _TYPER:
        expected = expected.replace(theirs, ours)
    return f"{name} must be {expected}{_given(name, arguments)}"


def _given(option: str, arguments: Sequence[str]) -> str:
    """`, got 'x'`: the value of an option on the command line, which Typer's error does not keep."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == option or word.startswith(f"{option}="):
            return f", got {word[len(option) + 1 :] or following!r}"
    return ""


def _hint_for(arguments: Sequence[str], error: Any) -> str:
    for word in arguments:
        name = word.split("=")[0]
        # A name may be foreign to one command and an option of another, which may not take ours either.
        if name in FOREIGN and f"No such option: {name}" in _words_of(error, arguments):
            ours = FOREIGN[name]
            taken = {option for one in error.ctx.command.params for option in one.opts}
            if not ours.startswith("--") or ours.split()[0] in taken:
                return ours
    entries: list[Any] = [*app.registered_commands, *app.registered_groups]
    known = [entry.name for entry in entries]
    commands = [word for word in arguments if word in known][:1]
    return " ".join(["kd", *commands, "--help"])


def _show(
    arguments: Sequence[str],
    error: BaseException,
    code: int,
    kind: str,
    message: str,
    hint: str | None,
    location: str | None,
) -> None:
    if isinstance(error, Interrupted | WorkerLostError):
        hint = hint or _resume_command(arguments, error)
    # What was typed wrong is not found in our code.
    if "--verbose" in arguments and code != UsageError.exit_code:
        traceback.print_exception(error)
    # Without rich: a faulty recipe is reported before anything slow is imported.
    colored = sys.stderr.isatty() and "--no-color" not in arguments and not os.environ.get("NO_COLOR")
    bold, red, end = ("\033[1m", "\033[1;31m", "\033[0m") if colored else ("", "", "")
    print(f"{red}error:{end} {message}", file=sys.stderr)
    if hint:
        print(f"{bold}hint:{end} {hint}", file=sys.stderr)
    if "--json" in arguments:
        details = {"exit_code": code, "kind": kind, "message": message, "hint": hint, "location": location}
        print(json.dumps({"schema": "kd.error/1", "error": details}, indent=2))


def _resume_command(arguments: Sequence[str], error: Interrupted | WorkerLostError) -> str:
    import shlex

    words = [word for word in arguments if word != "--overwrite"]
    if error.run is not None:
        given = any(word == "--out" or word.startswith("--out=") for word in words)
        words += [] if given else ["--out", str(error.run)]
        words += [] if "--resume" in words else ["--resume"]
    return shlex.join(["kd", *words])


def _log(error: BaseException) -> Path:
    import platformdirs

    folder = Path(platformdirs.user_log_dir("kdcli", ensure_exists=True))
    path = folder / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    path.write_text("".join(traceback.format_exception(error)), "utf-8")
    return path
