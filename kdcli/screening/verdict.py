"""What screening says of a model file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcli.errors import ModelError

TRUST_HINT = "--trust-model opens it all the same, if you know who made it"
COPY_HINT = "copy it again from where it came from: it is damaged, or its end is missing"


@dataclass(frozen=True)
class Trust:
    """What a user lets files do; said on the command line only, never by a recipe.

    Args:
        model: open a file that screening refuses.
        tables: let a SavedModel fill its lookup tables, from its own assets.
        remote: fetch a file that lies on another machine.
    """

    model: bool = False
    tables: bool = False
    remote: bool = False


NO_TRUST = Trust()


@dataclass(frozen=True)
class Finding:
    """One thing that a file holds and could do harm with, or that its reader should know.

    Args:
        rule: which rule it is, in one or two words with hyphens: `lambda`, `operation`, `external-link`, `size`.
        message: what is where; one sentence without the file's own path.
        refused: whether the file is refused for it; False only tells.
        hint: the way on.
    """

    rule: str
    message: str
    refused: bool = True
    hint: str = TRUST_HINT

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


@dataclass(frozen=True)
class Verdict:
    """All findings of one file; it is safe when nothing in it is refused.

    Args:
        findings: in the order in which they were met.
        values: numbers that its weights hold, of a Keras file: no model in it needs more.
    """

    findings: tuple[Finding, ...] = ()
    values: int = 0

    @property
    def refused(self) -> tuple[Finding, ...]:
        """What the file is refused for."""
        return tuple(finding for finding in self.findings if finding.refused)

    @property
    def safe(self) -> bool:
        """Whether nothing is refused."""
        return not self.refused

    def require_safe(self, path: Path) -> None:
        """Refuse the file.

        Raises:
            ModelError: the first thing that it is refused for, how many there are, and the way on.
        """
        refused: Sequence[Finding] = self.refused
        if not refused:
            return
        more = f" (and {len(refused) - 1} more: kd inspect {path} lists them)" if len(refused) > 1 else ""
        raise ModelError(f"{path}: refused, {refused[0]}{more}", hint=refused[0].hint)
