"""The latency that a command measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.errors import ModelError, UsageError
from kdcli.evaluation.latency.command import check_latency_command, run_latency_command, time_by_command


def script(tmp_path, body):
    path = tmp_path / "phone.py"
    path.write_text(body)
    return f"python {path} {{file}}"


def test_the_last_number_is_the_milliseconds(tmp_path):
    command = script(tmp_path, "import sys\nprint('warming up 3')\nprint('median', len(sys.argv[1]) + 0.5)\n")
    assert run_latency_command(command, Path("a b.tflite")) == len("a b.tflite") + 0.5


def test_files_are_a_session_with_ratios(tmp_path):
    command = script(tmp_path, "import sys\nprint(len(sys.argv[1]))\n")
    session = time_by_command(command, {"short": Path("ab"), "long": Path("abcd"), "again": Path("ab")})
    timing = session.summarize("short")
    assert (timing.p50_ms, timing.description, timing.p99_ms) == (2.0, "python", None)
    assert session.ratio("short", "long").value == 0.5
    assert session.ratio("short", "again").value == 1.0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit('no phone')", "exit code 1: no phone"),
        ("print('fast')", r"must be milliseconds above 0 \(got fast\)"),
        ("print(-1)", r"must be milliseconds above 0 \(got -1\)"),
        ("", r"must be milliseconds above 0 \(got nothing\)"),
    ],
)
def test_a_command_that_fails_is_named(tmp_path, body, message):
    with pytest.raises(ModelError, match=message):
        run_latency_command(script(tmp_path, body), Path("a.tflite"))


def test_a_missing_program_is_named():
    with pytest.raises(ModelError, match=r"--latency-command \./nowhere: No such file"):
        run_latency_command("./nowhere {file}", Path("a.tflite"))


def test_the_place_of_the_file_is_needed():
    with pytest.raises(UsageError, match=r"\{file\} is missing"):
        check_latency_command("./phone.sh")
    with pytest.raises(UsageError, match="no closing quotation"):
        check_latency_command("./phone.sh '{file}")
