"""Small JSON documents that contain their own sha256, and the fingerprints that name them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcli.runs import writer

_DIGEST = "sha256"
# Documents of kd are smaller; a foreign file in their place may be larger.
_MAX_BYTES = 10_000_000


def compute_fingerprint(components: Mapping[str, Any]) -> str:
    """Compute the sha256, in hexadecimal, of the components that determine a result.

    Args:
        components: text or numbers by name, in any order.
    """
    return hashlib.sha256(_serialize(components)).hexdigest()


def write_checksummed(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document with its sha256.

    Raises:
        StorageError: the file cannot be written.
    """
    checksummed = {**document, _DIGEST: hashlib.sha256(_serialize(document)).hexdigest()}
    writer.write_text(path, json.dumps(checksummed, indent=2) + "\n")


def read_checksummed(path: Path, schema: str) -> dict[str, Any] | None:
    """Read a document; None if it is missing, damaged or of another schema."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return None
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict) or document.get("schema") != schema:
            return None
        digest = document.pop(_DIGEST, None)
        return document if digest == hashlib.sha256(_serialize(document)).hexdigest() else None
    except (OSError, ValueError, RecursionError):
        return None


def _serialize(document: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(document), sort_keys=True, separators=(",", ":")).encode("utf-8")
