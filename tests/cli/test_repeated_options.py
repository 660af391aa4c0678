"""Options that are given more than once."""

from __future__ import annotations

import pytest

from kdcli.cli.app import app
from kdcli.cli.repeated_options import SingleOptions


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("distill", "--recipe", "graph", "--student", "a.keras", "--recipe", "dist"), "--recipe"),
        (("distill", "--student=a.keras", "--student", "b.keras"), "--student"),
        (("evaluate", "a.keras", "--split", "test", "--split", "all"), "--split"),
        (("compare", "--teacher", "a.keras", "--teacher", "b.keras"), "--teacher"),
        (("train-teacher", "--seed", "1", "--seed", "1"), "--seed"),
    ],
)
def test_an_option_with_one_value_that_is_given_twice_is_refused(kd, words, option):
    ran = kd(*words)
    error = f"error: {option} is given more than once; it takes one value\nhint: kd {words[0]} --help\n"
    assert (ran.code, ran.out, ran.err) == (2, "", error)


def test_lists_switches_and_values_that_look_like_options_are_not_repeated(kd):
    words = (
        "distill",
        "--set",
        "--recipe",
        "--set",
        "--recipe",
        "--teacher",
        "a",
        "--teacher",
        "b",
        "--json",
        "--json",
    )
    assert "more than once" not in kd(*words, "--recipe", "soft-targets").err


def test_every_command_checks_for_repeated_options():
    groups = [group.typer_instance for group in app.registered_groups]
    commands = [command for group in (app, *groups) for command in group.registered_commands]
    assert len(commands) > 15
    assert [command.name for command in commands if command.cls is not SingleOptions] == []
