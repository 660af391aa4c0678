"""Signals and closed pipes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from kdcli.cli.interrupts import catch_interrupts


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """A job in the background is started with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_is_remembered_until_the_next_check():
    before = signal.getsignal(signal.SIGTERM)
    with catch_interrupts(None) as stop:
        assert stop() is None
        signal.raise_signal(signal.SIGTERM)
        assert stop() == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_ends_a_dry_run_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with catch_interrupts(None, dry_run=True):
        assert signal.getsignal(signal.SIGTERM) == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("command", ["distill", "train_teacher", "compare"])
def test_every_dry_run_of_the_command_leaves_the_signals_alone(kd, monkeypatch, command):
    seen = []

    def interrupted(**options):
        seen.append(options["dry_run"])
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(f"kdcli.commands.{command}.{command}", interrupted)
    assert kd(command.replace("_", "-"), "--dry-run").code == 130
    assert seen == [True]


@pytest.mark.parametrize("words", [("losses", "show", "decoupled", "--json"), ("losses", "ls"), ("--help",)])
def test_a_closed_pipe_is_no_bug(words):
    ran = subprocess.Popen(
        [sys.executable, "-m", "kdcli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    ran.stdout.close()
    errors = ran.stderr.read()
    ran.stderr.close()
    assert (ran.wait(), errors) == (141, "")
