"""Writes docs/losses.md, and the table of losses in README.md, from the classes in kdcli/losses.

python docs/losses.py
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kdcli.catalogue.description import (
    FEATURE_FAMILY,
    MEMORY_FAMILY,
    OUTPUT_FAMILY,
    RELATION_FAMILY,
    WEIGHT_FAMILY,
    Description,
    describe_kind,
)
from kdcli.losses import LOSS_KINDS

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "losses.md", ROOT / "README.md"
BEGIN, END = "<!-- losses: written by docs/losses.py -->", "<!-- end of losses -->"
HEAD = """# Losses

This page and the table in the README are written from the classes in `kdcli/losses` by `python docs/losses.py`:
change a class, not this page. A test fails when one of them lags behind.

A recipe lists terms: `losses: [{kind: labels, weight: 0.1}, {kind: soft_targets, weight: 0.9, temperature: 4}]`.
Every term has a `weight`, used as written, and a `warmup`, the share of training over which the weight rises from
0. A weight or a temperature may change over training: `{from: 1.0, to: 0.0, over: 0.5, shape: cosine}`. A kind
that is used twice needs a `name`. The mean of what a loss gives over the batch is the loss; terms with a
temperature T carry T².

A term on inner layers takes `teacher_layer` and `student_layer`: the names that `kd inspect` prints, one or a
list, in pairs. Without names layers are chosen, and the plan (`--dry-run`) says which. Where a kind projects, a
layer that is made from the traced shapes brings the student's feature to the teacher's shape; it learns with the
student and is not in the file that ships. Losses of your own: [own-kinds.md](own-kinds.md).
"""
TITLES = {
    OUTPUT_FAMILY: "Outputs",
    FEATURE_FAMILY: "Inner layers",
    RELATION_FAMILY: "Relations between examples",
    WEIGHT_FAMILY: "Inner layers, with weights of the loss's own or a projection",
    MEMORY_FAMILY: "With a memory or an opponent",
}
# Explained once, at the head of the page.
COMMON = ("weight", "warmup", "teacher_layer", "student_layer")


def readme_table(found: Sequence[Description]) -> str:
    """The table of the README, one row for each kind."""
    rows = [
        [
            f"[`{one.kind}`](docs/losses.md#{one.kind})",
            one.known_as,
            one.year,
            ", ".join(one.needs),
            f"{one.weight:g}",
        ]
        for one in found
    ]
    return _table(["kind", "known as", "year", "needs", "weight"], rows)


def page(found: Sequence[Description]) -> str:
    """The page, by family."""
    parts = [HEAD]
    for family, title in TITLES.items():
        members = [one for one in found if one.family == family]
        if members:
            parts += [f"## {title}\n", *(_section(one) for one in members)]
    return "\n".join(parts)


def with_table(readme: str, table: str) -> str:
    """The README with the table between its markers."""
    return re.sub(
        f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", lambda _: f"{BEGIN}\n{table}{END}", readme, flags=re.DOTALL
    )


def _section(one: Description) -> str:
    about = {
        "Known as": one.known_as,
        "Paper": _linked(one.paper),
        "Shapes": one.shapes,
        "Needs": ", ".join(one.needs),
        "Refuses": "; ".join(one.refuses),
        "Layers": one.pairing,
    }
    lines = [f"### {one.kind}", "", one.formula, ""]
    lines += [one.text, ""] if one.text else []
    lines += [*(f"- {name}: {words}" for name, words in about.items() if words), ""]
    own = [option for option in one.options if option.name not in COMMON]
    if own:
        rows = [[f"`{option.name}`", _value(option.default), option.type, option.meaning] for option in own]
        lines += [_table(["option", "default", "takes", "meaning"], rows)]
    lines += [line for note in one.notes for line in (note, "")]
    return "\n".join([*lines, "```yaml", one.entry, "```", ""])


def _linked(paper: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def _value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(heading), ["---"] * len(heading), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def main() -> None:
    """Write both."""
    found = [describe_kind(member) for member in LOSS_KINDS.values()]
    PAGE.write_text(page(found), "utf-8")
    README.write_text(with_table(README.read_text("utf-8"), readme_table(found)), "utf-8")


if __name__ == "__main__":
    main()
