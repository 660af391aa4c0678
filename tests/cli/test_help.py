"""Options of each command, help texts, and hints for options of other tools."""

from __future__ import annotations

import re

import pytest
import typer

from kdcli import __version__
from kdcli.cli.app import app
from kdcli.cli.options import FOREIGN

COMMON = set("--recipe --set --data --limit --batch-size --threads --json --quiet --verbose --no-color".split())
COMMON |= set("--code --trust-model --allow-tables --allow-remote".split())
CHOICE = {"--signature", "--output"}
RUN = set("--out --resume --overwrite --seed --epochs --devices --dry-run --max-time --no-preflight".split()) | {
    "--cache-limit"
}
GATES = set("--gate --min-accuracy --max-accuracy-drop --min-gain --min-agreement --max-latency-ms".split())
GATES |= set("--max-latency-ratio --max-size-mb --strict-gates".split())
TIMING = {"--latency", "--no-latency", "--runtime", "--latency-command"}
# The built part of the contract's table.
TABLE = {
    "train-teacher": COMMON | RUN | {"--teacher"},
    "distill": COMMON | CHOICE | RUN | GATES | {"--teacher", "--student"},
    "compare": COMMON
    | CHOICE
    | RUN
    | GATES
    | {"--teacher", "--student", "--distilled", "--repeats", "--latency", "--no-latency"},
    "evaluate": COMMON | CHOICE | GATES | TIMING | {"--teacher", "--split", "--per-class", "--cold"},
    "export": COMMON
    | CHOICE
    | GATES
    | TIMING
    | {"--out", "--split", "--format", "--quantize", "--prepare", "--io", "--output-kind", "--batch"}
    | {"--max-export-drop", "--max-ram-kb", "--max-flash-kb", "--pick", "--web-runtime"},
    "predict": COMMON | CHOICE | {"--out", "--split"},
    "compress": COMMON
    | RUN
    | CHOICE
    | set("--max-size-mb --max-latency-ms --max-latency-ratio --max-mflops --max-drop --metric --format".split())
    | set("--latency-command --budget --repeats --student --max-ram-kb --max-flash-kb".split())
    | set("--gate --min-accuracy --max-accuracy-drop --min-agreement --strict-gates".split()),
    "shrink": COMMON
    | CHOICE
    | set("--keep --max-params --max-mflops --max-size-mb --max-latency-ms --measure-as --importance".split())
    | {"--latency-command"}
    | set("--allocation --round-to --rank --blocks --side --free-normalized --seed --fresh --dry-run".split())
    | set("--out --overwrite --gate --min-accuracy --max-accuracy-drop --min-agreement --strict-gates".split()),
    "quantize": COMMON
    | RUN
    | CHOICE
    | set("--teacher --gate --min-accuracy --strict-gates".split())
    | {"--max-export-drop", "--max-size-mb"},
    "inspect": COMMON | CHOICE,
    "doctor": {"--json", "--no-color"},
    "demo": {"--out", "--threads", "--json", "--quiet", "--no-color"},
}
COMMANDS = list(TABLE)
GROUPS = {"recipes": {"ls", "show", "cp", "check", "schema"}, "losses": {"ls", "show", "check"}}
GROUPS |= {"cache": {"ls", "show", "rm", "dir"}}


def options_of(command):
    """Every option of a command, as `--help` lists them."""
    found = typer.main.get_command(app).commands[command]
    return {
        name: option
        for option in found.params
        for name in (*option.opts, *option.secondary_opts)
        if name.startswith("-")
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_the_options_of_the_contract(command):
    assert set(options_of(command)) == TABLE[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_every_option_of_the_command(kd, command):
    ran = kd(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", ran.out)) == {*TABLE[command], "--help"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text_of_one_line(command):
    for name, option in options_of(command).items():
        assert option.help and option.help.endswith("."), name
        assert len(option.help) <= 70, name


@pytest.mark.parametrize("words", [[], *[[command] for command in (*COMMANDS, *GROUPS)], ["recipes", "cp"]])
def test_the_short_form_of_help_works(kd, words):
    short, long = kd(*words, "-h"), kd(*words, "--help")
    assert short.code == 0
    assert short.out == long.out
    assert "Usage: kd" in short.out


def test_bare_kd_prints_help_and_is_no_error(kd):
    ran = kd()
    assert (ran.code, ran.err) == (0, "")
    assert {*COMMANDS, *GROUPS} <= set(ran.out.split())
    assert len(ran.out.splitlines()) < 40


@pytest.mark.parametrize("group", GROUPS)
def test_a_bare_group_prints_its_help(kd, group):
    ran = kd(group)
    assert ran.code in (0, 2)
    assert f"Usage: kd {group}" in ran.out + ran.err
    assert GROUPS[group] <= set((ran.out + ran.err).split())
    assert "bug" not in ran.err


def test_the_commands_are_those_of_the_table():
    root = typer.main.get_command(app)
    assert set(root.commands) == {*COMMANDS, *GROUPS}
    assert {group: set(root.commands[group].commands) for group in GROUPS} == GROUPS


def test_the_version_is_printed(kd):
    ran = kd("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"kd {__version__}\n", "")


def test_an_unknown_command_names_the_nearest_and_a_hint_that_works(kd):
    ran = kd("distil")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.splitlines() == [
        "error: No such command 'distil'. Did you mean 'distill'?",
        "hint: kd --help",
    ]


@pytest.mark.parametrize("words", ["report", "verify"])
def test_a_command_that_does_not_exist_is_a_usage_error(kd, words):
    ran = kd(words)
    assert ran.code == 2
    assert ran.err.startswith(f"error: No such command '{words}'.")


@pytest.mark.parametrize("option", ["--tensorboard", "--jobs", "--track"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_does_not_exist_is_never_ignored(kd, command, option):
    ran = kd(command, option)
    assert ran.code == 2
    assert ran.err.startswith(f"error: No such option: {option}")


def test_an_unknown_option_names_the_nearest_and_the_help(kd):
    ran = kd("distill", "--resum")
    assert (ran.code, ran.out) == (2, "")
    assert "No such option: --resum" in ran.err and "--resume" in ran.err
    assert ran.err.splitlines()[-1] == "hint: kd distill --help"


@pytest.mark.parametrize("word", FOREIGN)
def test_an_option_of_another_tool_gets_a_hint(kd, word):
    ran = kd("distill", word, "1")
    assert ran.code == 2
    assert ran.err.splitlines()[-1] == f"hint: {FOREIGN[word]}"


@pytest.mark.parametrize("word", ["--alpha", "--temperature", "--lr", "--device", "--imgsz"])
def test_common_options_of_other_tools_are_known(kd, word):
    assert word in FOREIGN
    assert kd("distill", f"{word}=1").err.splitlines()[-1] == f"hint: {FOREIGN[word]}"


def test_a_usage_error_is_one_json_document_too(kd):
    ran = kd("distill", "--lr", "1", "--json")
    assert ran.code == 2
    assert ran.document == {
        "schema": "kd.error/1",
        "error": {
            "exit_code": 2,
            "kind": "usage",
            "message": ran.document["error"]["message"],
            "hint": FOREIGN["--lr"],
            "location": None,
        },
    }
    assert ran.document["error"]["message"].startswith("No such option: --lr")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["distill", "--epochs", "many"], "--epochs must be a whole number, got 'many'", "kd distill --help"),
        (["distill", "--epochs=many"], "--epochs must be a whole number, got 'many'", "kd distill --help"),
        (["distill", "--threads", "0"], "--threads must be >= 1, got '0'", "kd distill --help"),
        (
            ["distill", "--min-accuracy", "high"],
            "--min-accuracy must be a number, got 'high'",
            "kd distill --help",
        ),
        (["distill", "--limit", "some"], "--limit must be a count such as 500 or a fraction", "--limit 500"),
        (["distill", "--max-time", "soon"], "--max-time must be a time such as 90s, 30m or 2h", "--max-time 30m"),
        (["distill", "--max-time", "0"], "30m or 2h, got '0'", "--max-time 30m"),
        (["distill", "--cache-limit", "big"], "size such as 500MB or 20GB, got 'big'", "--cache-limit 20GB"),
        (["distill", "one-word-too-many"], "Got unexpected extra argument", "kd distill --help"),
        (["evaluate"], "Missing argument 'MODEL|RUN ...'", "kd evaluate --help"),
        (["evaluate", "--output-dir", "x"], "No such option: --output-dir", "kd evaluate --help"),
    ],
)
def test_a_wrong_value_names_its_option(kd, words, message, hint):
    ran = kd(*words, *(["--verbose"] if words[0] == "distill" else []))
    assert (ran.code, ran.out) == (2, "")
    first, *rest = ran.err.splitlines()
    assert first.startswith("error: ") and message in first
    # With --verbose too: what was typed wrong needs no traceback.
    assert rest == [f"hint: {hint}"]
