"""The words of the package: messages and docstrings in the terms of the field, one name for one thing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import kdcli

ROOT = Path(kdcli.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# What must not stand in a message, a docstring or a comment, and what stands there instead.
BANNED = {
    r"(?<![Tt]here )\b(?:is|are|was|were) no (?!longer\b|(?:better|more|larger) than\b)": "is not a, there is no",
    r"\blies? (?:in|on|at|beside|there)\b|\blying\b": "is in",
    r"\bpictures?\b": "image",
    r"\btwins?\b": "baseline",
    r"\b(?:the|its|teacher's|kept|cached|recorded|whose) answers?\b|\banswering\b|\banswered\b": "outputs",
    r"\b(?:is|are|was|be|been) told\b|\btold of\b": "receives, is shown",
    r"\b(?:is|are|was|were) asked\b|\basked for\b": "requested, called",
    r"\bpreparations?\b": "preprocessing",
    r"\bcame free\b": "freed",
    r"\ball the same\b": "anyway",
    r"\bmeanwhile\b": "during",
    r"\bnobody\b|\bnoone\b|\bwhoever\b|\bsomebody\b": "a subject",
    r"\bown kinds?\b": "custom kind",
    r"\bfigures?\b": "metric",
    r"\d %": "2.0%",
}
# Names that a message must hold as they are: the key `answer` of a document, a recipe's text.
ALLOWED = re.compile(r"`[^`]*`|\"answer\"|'answer'")


def texts_of(file):
    """Each string and comment of a file that is a sentence, with its line."""
    text = file.read_text("utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            yield number, line


@pytest.mark.parametrize("form", BANNED)
def test_no_text_has_a_form_that_a_native_reader_would_not_write(form):
    pattern = re.compile(form)
    found = [
        f"{file.relative_to(ROOT)}:{line}: {' '.join(text.split())[:120]}"
        for file in FILES
        for line, text in texts_of(file)
        if " " in text.strip() and pattern.search(ALLOWED.sub("", text))
    ]
    assert found == [], f"write: {BANNED[form]}"
