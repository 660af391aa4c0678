"""Class names from a text file such as `labels.txt`: one name per line."""

from __future__ import annotations

import re
from pathlib import Path

from kdcli.errors import KdError


def read_class_names(path: Path, error: type[KdError], *, setting: str = "") -> tuple[str, ...]:
    """Read class names in label order: one per line, or numbered from 0.

    Numbered lines are `0:name`, as TF-Slim writes them, or `0 name`, as Teachable Machine does.

    Args:
        path: the text file.
        error: class of the error to raise.
        setting: setting that names the file, for messages.

    Raises:
        KdError: the file is missing or empty, or its numbers have gaps.
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
        raise error(f"{where}: the numbers must be 0 to {len(lines) - 1}, each exactly once")
    else:
        names = tuple(lines)
    if not names:
        raise error(f"{where} is empty")
    return names
