"""Tables in a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from kdcli.cli.console import Output, make_table


def test_a_table_that_is_wider_than_the_terminal_keeps_every_number(capsys):
    output = Output()
    shown = io.StringIO()
    output.out = Console(file=shown, width=40, force_terminal=True, color_system=None)
    cells = ["0.9806 [0.9604, 0.9905]", "1,241,982", "0.0797", "289,066"]
    table = make_table(
        "a title", ("model", "accuracy", "bytes", "loss", "parameters"), [["runs/student.keras", *cells]]
    )
    output.result({}, human=[table])
    lines = [line for line in shown.getvalue().splitlines() if "student.keras" in line]
    assert len(lines) == 1
    for cell in cells:
        assert cell in lines[0]


def test_a_table_that_fits_is_not_stretched(capsys):
    output = Output()
    shown = io.StringIO()
    output.out = Console(file=shown, width=60, force_terminal=True, color_system=None)
    output.result({}, human=[make_table("", ("a", "b"), [["x", "1"]])])
    assert max(len(line) for line in shown.getvalue().splitlines()) <= 60
