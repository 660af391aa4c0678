"""The result of screening a model file, and what the user allows a file to do."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError

TRUST_HINT = "--trust-model opens it anyway; use it only for files from a source you trust"
COPY_HINT = "copy the file again from its source: it is damaged or truncated"
# A hostile or damaged file may repeat one fault in every part; more findings than these are not useful.
MAX_FINDINGS = 100


@dataclass(frozen=True)
class Trust:
    """What the user allows files to do; set on the command line only, never by a recipe.

    Args:
        model: open a file that screening refuses.
        tables: let a SavedModel fill its lookup tables from its own assets.
        remote: download a file from a remote path.
    """

    model: bool = False
    tables: bool = False
    remote: bool = False


NO_TRUST = Trust()


@dataclass(frozen=True)
class Finding:
    """One thing in a file that could do harm or that the user should know.

    Args:
        rule: name of the rule, one or two words with a hyphen: `lambda`, `operation`, `external-link`, `size`.
        message: what was found and where; one sentence without the path of the file.
        refused: whether the file is refused because of it; otherwise the finding only informs.
        hint: what the user can do about it.
    """

    rule: str
    message: str
    _: KW_ONLY
    refused: bool = True
    hint: str = TRUST_HINT

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


@dataclass(frozen=True)
class Verdict:
    """All findings of one file; the file is safe if none of them is refused.

    Args:
        findings: in the order of discovery.
        values: number of weight values in a Keras file: an upper bound for the weights of its model.
    """

    findings: tuple[Finding, ...] = ()
    values: int = 0

    @property
    def refused(self) -> tuple[Finding, ...]:
        """The findings that the file is refused for."""
        return tuple(finding for finding in self.findings if finding.refused)

    @property
    def safe(self) -> bool:
        """Whether no finding is refused."""
        return not self.refused

    def require_safe(self, path: Path) -> None:
        """Raise an error unless the file is safe.

        Raises:
            ModelError: the first refused finding with its hint, and how many more there are.
        """
        refused = self.refused
        if not refused:
            return
        more = f" (and {len(refused) - 1} more: kd inspect {path} lists them)" if len(refused) > 1 else ""
        raise ModelError(f"{path}: refused, {refused[0]}{more}", hint=refused[0].hint)


def quote(value: Any) -> str:
    """Quote a value from an untrusted file for a message: no control characters, at most 80 characters."""
    value = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    return repr(value if len(str(value)) <= 80 else f"{str(value)[:77]}...")
