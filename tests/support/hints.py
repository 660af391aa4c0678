"""One assertion for every hint: what it says to type passes the real argument parser and the real recipe reader.

A hint is a sentence. In it, `kd COMMAND ...` is a command line of its own, `--option value` goes to the end of the
command that failed, `pip install NAME ...` installs packages. A word in capitals stands for what the reader has.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# A quote opens at the beginning of a word or after `=`; in "the file's weights" there is none.
_WORD = re.compile(r"(?:(?<![A-Za-z0-9])'[^']*'|\S)+")
# What follows an option that is only named: "remove --threads", "--out on a file system that they share".
_PROSE = ("out", "on", "is", "says", "for", "to", "as", "and", "or", "fetches", "chooses")
_PACKAGE = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?")


def typed(hint: str | None, words: Sequence[str] = ()) -> None:
    """Assert that the commands and options in a hint can be typed.

    Args:
        hint: without the word `hint:`.
        words: of the command that failed, without `kd`; empty: an option must be one of some command.
    """
    tokens = _WORD.findall((hint or "").replace("`", " "))
    at = 0
    while at < len(tokens):
        if tokens[at] == "kd" and not _is_prose(tokens[at + 1 :]):
            at += 1 + _command(_until_stop(tokens[at + 1 :]), hint)
        elif tokens[at : at + 2] == ["pip", "install"]:
            packages = [_plain(word) for word in tokens[at + 2 :]]
            assert packages and all(_PACKAGE.fullmatch(name) for name in packages), f"not a pip command: {hint}"
            return
        elif re.match(r"--[a-z]", tokens[at]):
            at += _option(tokens[at:], hint, words)
        else:
            at += 1


def _is_prose(following: Sequence[str]) -> bool:
    """Whether `kd` is a word of the sentence, as in "kd reads .npz files", or stands for any command."""
    word = following[0].rstrip(",;:)") if following else "..."
    return word == "..." or (word.endswith("s") and word not in _root().commands) or word == "can"


def _until_stop(tokens: Sequence[str]) -> list[str]:
    """The words up to the end of their part of the sentence."""
    for number, token in enumerate(tokens):
        if token[-1] in ",;:)":
            return [*tokens[:number], token.rstrip(",;:)")]
    return list(tokens)


def _plain(token: str) -> str:
    """A word as the shell hands it on."""
    return re.sub(r"(?<![A-Za-z0-9])'([^']*)'", r"\1", token.rstrip(",;:)"))


def _command(segment: list[str], hint: str | None) -> int:
    """Check a `kd ...`, which may go over into prose; gives the number of words that belong to it."""
    found, depth = _root(), 0
    while hasattr(found, "commands"):
        if segment[depth : depth + 1] == ["--help"]:
            return depth + 1
        assert depth < len(segment) and segment[depth] in found.commands, f"no such command: {hint}"
        found, depth = found.commands[segment[depth]], depth + 1
    for length in range(len(segment), depth - 1, -1):
        arguments = [_plain(word) for word in segment[depth:length]]
        if _parses(found, arguments):
            _check_settings(arguments, segment, hint)
            return length
    # Only named, as in "kd inspect lists them": without an option, or one that is wrong would not be seen.
    assert not any(word.startswith("--") for word in segment), f"does not parse: {hint}"
    return depth


def _option(tokens: Sequence[str], hint: str | None, words: Sequence[str]) -> int:
    """Check an option with its value; gives the number of words that belong to it."""
    name, equals, value = _plain(tokens[0]).partition("=")
    taking = [command for command in _failed(words) if name in _options(command)]
    assert taking, f"{' '.join(words[:1]) or 'no command'} has no {name}: {hint}"
    named = not equals and (tokens[0][-1] in ",;:)" or len(tokens) == 1 or tokens[1] in _PROSE)
    if _options(taking[0])[name].is_flag or named:
        # Only named, as in "choose another --out".
        return 1
    value = value if equals else _plain(tokens[1])
    number = "1" if value.isupper() else value
    assert any(
        _parses(command, [*_required(command), name, text]) for command in taking for text in (value, number)
    ), f"{name}: {hint}"
    _check_settings([name, value], words, hint)
    return 1 if equals else 2


def _check_settings(arguments: Sequence[str], words: Sequence[str], hint: str | None) -> None:
    from kdcli.cli.groups import parse_bytes, parse_limit, parse_time
    from kdcli.recipe.gates import parse_gate

    readers = {
        "--gate": parse_gate,
        "--limit": parse_limit,
        "--max-time": parse_time,
        "--cache-limit": parse_bytes,
    }
    for option, value in itertools.pairwise(arguments):
        if option == "--set":
            _check_setting(value, words, hint)
        elif option in readers and not value.isupper():
            try:
                readers[option](value)
            except Exception as error:
                raise AssertionError(f"{option} {value}: {error}: {hint}") from error


def _check_setting(setting: str, words: Sequence[str], hint: str | None) -> None:
    """Read a recipe with the setting; only what is wrong with the setting itself counts."""
    from kdcli.errors import KdError, RecipeError
    from kdcli.models.custom_code import find_kinds
    from kdcli.recipe.reader import read_recipe

    path = setting.partition("=")[0]
    values = {name: [b for a, b in itertools.pairwise(words) if a == name] for name in _OF_THE_RECIPE}
    others = [text for text in values["--set"] if text != setting]
    teachers = 2 if re.match(r"teacher\.\d", path) else 0
    recipe: Any = values["--recipe"][-1] if values["--recipe"] else _recipe_for(path, others)
    try:
        own = find_kinds([Path(file) for file in values["--code"]])
        read_recipe(recipe, settings=[*others, setting], custom=own, teachers=teachers)
    except RecipeError as error:
        wrong = [fault for fault in error.faults if fault.setting.startswith(path) or fault.origin == "--set"]
        told = [fault for fault in wrong if not any(fault.setting == one.partition("=")[0] for one in others)]
        assert not told, f"{setting}: {told[0].message}: {hint}"
    except KdError:
        # The recipe or the code of the command that failed cannot be read, which is what the hint is about.
        return


_OF_THE_RECIPE = ("--recipe", "--set", "--code")


def _recipe_for(path: str, settings: Sequence[str]) -> Any:
    """A recipe that has the term which a setting is about; where a command names its losses, none is needed."""
    from kdcli.losses import LOSS_KINDS

    parts = path.split(".")
    if parts[0] != "losses" or len(parts) < 3 or any(text.startswith("losses=") for text in settings):
        return "soft-targets"
    if parts[1] in LOSS_KINDS:
        return {"losses": [{"kind": parts[1]}]}
    return {
        "losses": [
            {"kind": kind, "name": parts[1]} for kind in LOSS_KINDS if parts[2] in LOSS_KINDS[kind].model_fields
        ][:1]
    }


@functools.cache
def _root() -> Any:
    import typer

    from kdcli.cli.app import app

    return typer.main.get_command(app)


def _failed(words: Sequence[str]) -> list[Any]:
    """The command that failed; every command where that is not known."""
    found = _root()
    for word in words:
        if not hasattr(found, "commands"):
            break
        found = found.commands.get(word, found)
    return _leaves(found)


def _leaves(command: Any) -> list[Any]:
    inner = getattr(command, "commands", None)
    return [command] if inner is None else [leaf for one in inner.values() for leaf in _leaves(one)]


def _options(command: Any) -> dict[str, Any]:
    return {name: one for one in command.params for name in (*one.opts, *one.secondary_opts) if name[0] == "-"}


def _required(command: Any) -> list[str]:
    """Something for everything that the command cannot do without."""
    given: list[str] = []
    for one in command.params:
        if one.required:
            given += [one.opts[0], "X"] if one.opts[0].startswith("-") else ["X"]
    return given


def _parses(command: Any, arguments: list[str]) -> bool:
    from kdcli.errors import UsageError

    if "--help" in arguments:
        return True
    try:
        command.make_context(command.name, list(arguments))
    except UsageError:
        return False
    except Exception as error:
        if hasattr(error, "format_message"):
            return False
        raise
    return True
