"""The README: short, and continuous integration runs what it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_readme_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_the_picture_shows_the_table_of_the_demo_page():
    picture = (ROOT / "docs" / "kd-demo.svg").read_text("utf-8")
    assert "(docs/kd-demo.svg)" in README
    shown = re.sub(r"<[^>]+>", "", picture).replace("\u00a0", " ")
    page = (ROOT / "docs" / "commands" / "demo.md").read_text("utf-8")
    table = page[page.index("\ncandidate ") :].splitlines()[1:7]
    for line in table:
        # The picture cuts long lines.
        assert line[:110] in shown, line


def test_continuous_integration_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    extract = next(line for line in script.splitlines() if line.startswith("sed -n")).split(" > ")[0]
    command = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert command in README
    for word in ("-m venv .venv", "pip install", "ruff check", "mypy", "-m pytest"):
        assert word in command


def test_no_recipe_lacks_its_measured_result():
    for path in (ROOT / "recipes").glob("*.yaml"):
        text = path.read_text("utf-8")
        assert re.search(r"^# Result: +\S", text, re.MULTILINE) and "RESULT" not in text, path.name
