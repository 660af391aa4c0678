"""The frozen results of `kd demo` and their JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.runs.compression_results import Compression
from kdcli.runs.results import relativize_path


@dataclass(frozen=True)
class Demonstration:
    """The result of the demo on the embedded digits.

    Args:
        out: folder of the teacher and of the search.
        compression: the finished search.
        seconds: by stage, and `total`.
    """

    out: Path
    compression: Compression
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """`kd.demo/1`; `compress` is the document of `kd compress`."""
        return {
            "schema": "kd.demo/1",
            "out": relativize_path(self.out),
            "compress": self.compression.to_json(),
            "seconds": self.seconds,
        }
