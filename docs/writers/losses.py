"""The catalogue of losses, from the classes that compute them."""

from __future__ import annotations

import re

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
from writers.markdown import table, value_text

TITLES = {
    OUTPUT_FAMILY: "Outputs",
    FEATURE_FAMILY: "Inner layers",
    RELATION_FAMILY: "Relations between examples",
    WEIGHT_FAMILY: "Inner layers, with a projection or trained weights",
    MEMORY_FAMILY: "With a memory or a discriminator",
}
# Explained once, at the head of the page.
COMMON = ("weight", "warmup", "teacher_layer", "student_layer")


def descriptions() -> tuple[Description, ...]:
    """Every kind, in the catalogue's order."""
    return tuple(describe_kind(member) for member in LOSS_KINDS.values())


def loss_table() -> str:
    """One row for each kind."""
    rows = [
        [f"[`{one.kind}`](#{one.kind})", one.known_as, one.year, ", ".join(one.needs), f"{one.weight:g}"]
        for one in descriptions()
    ]
    return table(["kind", "known as", "year", "needs", "weight"], rows)


def loss_sections() -> str:
    """One section for each kind, by family."""
    parts = []
    for family, title in TITLES.items():
        members = [one for one in descriptions() if one.family == family]
        if members:
            parts += [f"## {title}\n", *(_section(one) for one in members)]
    return "\n".join(parts)


def _section(one: Description) -> str:
    facts = {
        "Known as": one.known_as,
        "Paper": _link_paper(one.paper),
        "Shapes": one.shapes,
        "Needs": ", ".join(one.needs),
        "Refuses": "; ".join(one.refuses),
        "Layers": one.pairing,
    }
    lines = [f"### {one.kind}", "", one.formula, ""]
    lines += [one.text, ""] if one.text else []
    lines += [*(f"- {name}: {text}" for name, text in facts.items() if text), ""]
    rows = [
        [f"`{option.name}`", value_text(option.default), option.type, option.meaning]
        for option in one.options
        if option.name not in COMMON
    ]
    lines += [table(["option", "default", "takes", "meaning"], rows)] if rows else []
    lines += [line for note in one.notes for line in (note, "")]
    return "\n".join([*lines, "```yaml", one.entry, "```", ""])


def _link_paper(paper: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)
