"""What an entry of the cache says about itself: `about.json`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.cache.checksummed_json import compute_fingerprint, read_checksummed, write_checksummed
from kdcli.cache.folder import OUTPUTS_FOLDER
from kdcli.cache.layout import Layout
from kdcli.runs.records import collect_versions, redact_document

METADATA_FILE = "about.json"
_SCHEMA = "kd.cache-entry/1"
# Characters of a fingerprint: in the name of a folder, and what people see.
_NAME, KEY_CHARACTERS = 32, 12


@dataclass(frozen=True)
class EntryMetadata:
    """Whose answers to what, and how they lie.

    Args:
        components: what the answers follow from.
        described: teacher, data and split, for people.
        choices: what was measured when it was decided how answers are made and kept.
        versions: of the packages that wrote it.
        created: date and time, UTC.
    """

    components: dict[str, Any]
    layout: Layout
    described: dict[str, Any]
    choices: dict[str, Any]
    versions: dict[str, str | None]
    created: str

    @property
    def fingerprint(self) -> str:
        """The sha256 of the components."""
        return compute_fingerprint(self.components)

    @property
    def key(self) -> str:
        """What people call it by."""
        return self.fingerprint[:KEY_CHARACTERS]

    def to_json(self) -> dict[str, Any]:
        """`kd.cache-entry/1`."""
        return {
            "schema": _SCHEMA,
            "fingerprint": self.fingerprint,
            "components": self.components,
            "described": self.described,
            "layout": self.layout.to_json(),
            "choices": self.choices,
            "versions": self.versions,
            "created": self.created,
        }

    def write(self, path: Path) -> None:
        """Into the folder of the entry.

        Raises:
            StorageError: it cannot be written.
        """
        write_checksummed(path / METADATA_FILE, self.to_json())


def locate_entry(folder: Path, components: Mapping[str, Any]) -> Path:
    """Where the entry of these components lies in a cache."""
    return folder / OUTPUTS_FOLDER / compute_fingerprint(components)[:_NAME]


def is_entry_folder(path: Path) -> bool:
    """Whether a folder is named like an entry."""
    return len(path.name) == _NAME and set(path.name) <= set("0123456789abcdef")


def write_metadata(
    path: Path,
    components: Mapping[str, Any],
    *,
    layout: Layout,
    described: Mapping[str, Any],
    choices: Mapping[str, Any],
) -> EntryMetadata:
    """Say what the entry in a folder is about.

    Raises:
        StorageError: it cannot be written.
    """
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = EntryMetadata(
        dict(components), layout, redact_document(described), dict(choices), collect_versions(), created
    )
    about.write(path)
    return about


def read_metadata(path: Path) -> EntryMetadata | None:
    """What the entry in a folder says, or None when there is none or it is damaged."""
    document = read_checksummed(path / METADATA_FILE, _SCHEMA)
    if document is None:
        return None
    names = ("components", "described", "choices", "versions", "created")
    about = EntryMetadata(layout=Layout.from_json(document["layout"]), **{name: document[name] for name in names})
    # A folder may have been renamed or copied by hand.
    return about if about.fingerprint[:_NAME] == path.name else None
