"""Stored decisions, such as the fastest precision, and the reason why cached outputs are not used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdcli.cache.checksummed_json import compute_fingerprint, read_checksummed, write_checksummed
from kdcli.cache.folder import DECISIONS_FOLDER, OUTPUTS_FOLDER
from kdcli.cache.locks import remove_leftovers
from kdcli.cache.metadata import EntryMetadata, is_entry_folder, read_metadata
from kdcli.errors import StorageError
from kdcli.runs import writer

_SCHEMA = "kd.cache-choice/1"
# Characters of the fingerprint in a file name.
_NAME_CHARACTERS, _SUFFIX = 32, ".json"
# Descriptions of the components of an entry; `code.1` is described as `code`.
_DESCRIPTIONS = {
    "teacher.weights": "the teacher's weights",
    "teacher.inputs": "the teacher's inputs",
    "teacher.preparation": "the teacher's preprocessing",
    "teacher.output": "the interpretation of the teacher's output",
    "teacher.columns": "the selection of the teacher's outputs",
    "teacher.precision": "the teacher's precision",
    "code": "the custom code",
    "revision": "the version of kd",
    "split": "the split",
    "data.content": "the examples",
    "data.examples": "the number of examples",
    "views.augment": "the augmentation",
    "views.seed": "the seed of the augmentation",
    "views.count": "the number of views",
    "kept": "the stored features and their dtypes",
}


def store_decision(folder: Path, components: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Store a decision that took time. If the cache cannot be written, nothing is stored.

    Args:
        folder: folder of the cache.
        components: text or numbers that determine the decision, by name.
        document: what was decided and measured; JSON.
    """
    path = _decision_path(folder, components)
    with suppress(StorageError, OSError):
        writer.make_folder(path.parent)
        remove_leftovers(path.parent)
        write_checksummed(path, {"schema": _SCHEMA, "components": dict(components), "document": dict(document)})


def load_decision(folder: Path, components: Mapping[str, Any]) -> dict[str, Any] | None:
    """Load the decision for exactly these components, or None."""
    found = read_checksummed(_decision_path(folder, components), _SCHEMA)
    return found["document"] if found is not None and found["components"] == dict(components) else None


def remove_decisions(folder: Path) -> int:
    """Remove all decisions from a cache and return the number of bytes freed.

    Raises:
        StorageError: a file cannot be removed.
    """
    freed = 0
    for path in sorted((folder / DECISIONS_FOLDER).glob(f"*{_SUFFIX}")):
        if read_checksummed(path, _SCHEMA) is not None:
            freed += path.stat().st_size
            writer.remove(path)
    return freed


def explain_miss(folder: Path, components: Mapping[str, Any], *, teacher: str | None = None) -> str | None:
    """Explain why no cache entry is used: find the most similar entry and name the differences.

    Candidates have the same weights, or the same examples and a teacher of the same path, which has changed.

    Args:
        folder: folder of the cache.
        components: text or numbers by name; `split` and `data.*` determine the examples, `teacher.weights` the
            teacher.
        teacher: path or name of the teacher as entries record it; None for any.

    Returns:
        One sentence, or None if there is no similar entry.
    """
    candidates = [
        (_list_differences(entry.components, components), entry.key)
        for entry in read_entries(folder)
        if entry.components.get("split") == components.get("split") and _is_similar(entry, components, teacher)
    ]
    nearest = min((pair for pair in candidates if pair[0]), key=lambda pair: len(pair[0]), default=None)
    if nearest is None:
        return None
    differences, key = nearest
    described = dict.fromkeys(
        _DESCRIPTIONS.get(name, _DESCRIPTIONS.get(name.split(".")[0], name)) for name in differences
    )
    return f"cache entry {key} is not used: it differs in {', '.join(described)}"


def read_entries(folder: Path) -> Iterator[EntryMetadata]:
    """Read the metadata of all entries of a cache that are not damaged."""
    for path in list_entry_folders(folder):
        metadata = read_metadata(path)
        if metadata is not None:
            yield metadata


def list_entry_folders(folder: Path) -> list[Path]:
    """List the folders of a cache that have the name of an entry."""
    try:
        return sorted(path for path in (folder / OUTPUTS_FOLDER).iterdir() if is_entry_folder(path))
    except OSError:
        return []


def _decision_path(folder: Path, components: Mapping[str, Any]) -> Path:
    return folder / DECISIONS_FOLDER / f"{compute_fingerprint(components)[:_NAME_CHARACTERS]}{_SUFFIX}"


def _is_similar(entry: EntryMetadata, ours: Mapping[str, Any], teacher: str | None) -> bool:
    theirs = entry.components
    our_data, their_data = (
        {name: value for name, value in components.items() if name.startswith("data.")}
        for components in (ours, theirs)
    )
    same_teacher = teacher is None or entry.described.get("teacher") == teacher
    return (our_data == their_data and same_teacher) or theirs.get("teacher.weights", ours) == ours.get(
        "teacher.weights"
    )


def _list_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [name for name in names if theirs.get(name) != ours.get(name)]
