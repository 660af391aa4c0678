"""How large a model is."""

from __future__ import annotations

from pathlib import Path

WIDTHS = {"float32": 4, "float16": 2, "int8": 1}


def file_bytes(path: Path) -> int:
    """Bytes as shipped: of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size


def weight_bytes(parameters: int) -> dict[str, int]:
    """Bytes of the weights alone, in each width."""
    return {name: width * parameters for name, width in WIDTHS.items()}
