"""Small JSON documents that know their own sha256, and the fingerprint that names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcli.runs import writer

_SEAL = "sha256"
# Nothing of ours is larger; a file in its place may be.
_MOST_BYTES = 10_000_000


def compute_fingerprint(components: Mapping[str, Any]) -> str:
    """The sha256, in hexadecimal, of what answers follow from.

    Args:
        components: names with text or numbers; their order does not matter.
    """
    return hashlib.sha256(_canonical(components)).hexdigest()


def write_checksummed(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document with its sha256.

    Raises:
        StorageError: it cannot be written.
    """
    sealed = {**document, _SEAL: hashlib.sha256(_canonical(document)).hexdigest()}
    writer.write_text(path, json.dumps(sealed, indent=2) + "\n")


def read_checksummed(path: Path, schema: str) -> dict[str, Any] | None:
    """A document as it was written, or None when it is missing, damaged or of another kind."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict) or document.get("schema") != schema:
            return None
        seal = document.pop(_SEAL, None)
        return document if seal == hashlib.sha256(_canonical(document)).hexdigest() else None
    except (OSError, ValueError, RecursionError):
        return None


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(document), sort_keys=True, separators=(",", ":")).encode("utf-8")
