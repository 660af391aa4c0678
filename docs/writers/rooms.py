"""The rooms of the package with their rows, from the test that checks them and the docstrings of the rooms."""

from __future__ import annotations

import ast
from pathlib import Path

from writers.markdown import table

ROOT = Path(__file__).parents[2]


def rows() -> dict[str, int]:
    """The row of each room, as `tests/test_architecture.py` defines it."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text("utf-8"))
    value = next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROWS"
    )
    found: dict[str, int] = eval(compile(ast.Expression(value), "ROWS", "eval"))
    return found


def room_table() -> str:
    """Every room with its row and what it does."""
    known = rows()
    order = sorted(known, key=lambda room: (known[room], room))
    return table(["row", "room", "content"], [[str(known[room]), _path(room), _purpose(room)] for room in order])


def _path(room: str) -> str:
    return f"`{room}/`" if (ROOT / "kdcli" / room).is_dir() else f"`{room}.py`"


def _purpose(room: str) -> str:
    folder = ROOT / "kdcli" / room
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    if not file.is_file():
        return ""
    return (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").partition("\n")[0]
