"""Names of classes in a text file, one a line: as people write `labels.txt`."""

from __future__ import annotations

import re
from pathlib import Path

from kdcli.errors import KdError


def read_class_names(path: Path, error: type[KdError], *, setting: str = "") -> tuple[str, ...]:
    """The names in label order: one a line, or numbered from 0.

    Numbered is `0:name`, as TF-Slim writes it, or `0 name`, as Teachable Machine does.

    Args:
        error: what is raised.
        setting: that names the file, for messages.

    Raises:
        KdError: a file that is missing or empty, or numbers with gaps.
    """
    where = f"{setting}: {path}" if setting else str(path)
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except OSError as fault:
        raise error(f"{where} cannot be read: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise error(f"{where} is not UTF-8 text") from None
    numbered = [re.fullmatch(r"(\d+)(:|\s+)\s*(.+)", line) for line in lines]
    by_number = {int(match[1]): match[3] for match in numbered if match}
    if len(by_number) == len(lines) and sorted(by_number) == list(range(len(lines))):
        names = tuple(by_number[number] for number in range(len(lines)))
    elif lines and all(match and match[2] == ":" for match in numbered):
        raise error(f"{where}: its numbers must be 0 to {len(lines) - 1}, each once")
    else:
        names = tuple(lines)
    if not names:
        raise error(f"{where}: is empty")
    return names
