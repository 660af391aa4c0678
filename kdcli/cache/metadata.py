"""The metadata of a cache entry: `about.json`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.cache.checksummed_json import compute_fingerprint, read_checksummed, write_checksummed
from kdcli.cache.folder import OUTPUTS_FOLDER
from kdcli.cache.layout import Layout
from kdcli.runs.run_environment import collect_versions, redact_document

METADATA_FILE = "about.json"
_SCHEMA = "kd.cache-entry/1"
# Characters of a fingerprint in the name of a folder, and in the key that users see.
_NAME_CHARACTERS, KEY_CHARACTERS = 32, 12


@dataclass(frozen=True)
class EntryMetadata:
    """What an entry contains.

    Args:
        components: text or numbers that determine the outputs, by name.
        layout: layout of the outputs.
        described: teacher, data and split, for messages.
        choices: measurements behind the choice of precision and dtypes.
        versions: versions of the packages that wrote the entry.
        created: date and time in UTC.
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
        """The key that users see."""
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
        """Write the metadata to the folder of the entry.

        Raises:
            StorageError: the file cannot be written.
        """
        write_checksummed(path / METADATA_FILE, self.to_json())


def locate_entry(folder: Path, components: Mapping[str, Any]) -> Path:
    """Return the folder of the entry with these components; it may not exist."""
    return folder / OUTPUTS_FOLDER / compute_fingerprint(components)[:_NAME_CHARACTERS]


def is_entry_folder(path: Path) -> bool:
    """Whether a path has the name of an entry."""
    return len(path.name) == _NAME_CHARACTERS and set(path.name) <= set("0123456789abcdef")


def write_metadata(
    path: Path,
    components: Mapping[str, Any],
    *,
    layout: Layout,
    described: Mapping[str, Any],
    choices: Mapping[str, Any],
) -> EntryMetadata:
    """Write the metadata of a new entry to its folder; the arguments are those of `EntryMetadata`.

    Raises:
        StorageError: the file cannot be written.
    """
    metadata = EntryMetadata(
        components=dict(components),
        layout=layout,
        described=redact_document(described),
        choices=dict(choices),
        versions=collect_versions(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    metadata.write(path)
    return metadata


def read_metadata(path: Path) -> EntryMetadata | None:
    """Read the metadata of the entry in a folder; None if there is none or it is damaged."""
    document = read_checksummed(path / METADATA_FILE, _SCHEMA)
    if document is None:
        return None
    names = ("components", "described", "choices", "versions", "created")
    metadata = EntryMetadata(
        layout=Layout.from_json(document["layout"]), **{name: document[name] for name in names}
    )
    # A user may have renamed or copied the folder.
    return metadata if metadata.fingerprint[:_NAME_CHARACTERS] == path.name else None
