"""Small decisions that are remembered, and why kept answers are not used."""

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
_NAME, _SUFFIX = 32, ".json"
# What answers follow from, as people call it; `code.1` is found as `code`.
_WORDS = {
    "teacher.weights": "the teacher's weights",
    "teacher.inputs": "the teacher's inputs",
    "teacher.preparation": "how examples are prepared for the teacher",
    "teacher.output": "how the teacher's output is read",
    "teacher.columns": "which of the teacher's outputs are used",
    "teacher.precision": "the teacher's precision",
    "code": "own code",
    "revision": "the version of kd",
    "split": "the split",
    "data.content": "the examples",
    "data.examples": "the number of examples",
    "views.augment": "the augmentation",
    "views.seed": "the seed of the augmentation",
    "views.count": "the number of views",
    "kept": "which features are kept and in which number types",
}


def store_decision(folder: Path, components: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Keep a decision that took time. A cache that cannot be written forgets it, which is no error.

    Args:
        folder: of the cache.
        components: names with text or numbers, what the decision follows from.
        document: what was decided and measured; JSON.
    """
    path = _place(folder, components)
    with suppress(StorageError, OSError):
        writer.make_folder(path.parent)
        remove_leftovers(path.parent)
        write_checksummed(path, {"schema": _SCHEMA, "components": dict(components), "document": dict(document)})


def load_decision(folder: Path, components: Mapping[str, Any]) -> dict[str, Any] | None:
    """A decision that was remembered for exactly these components, or None."""
    found = read_checksummed(_place(folder, components), _SCHEMA)
    return found["document"] if found is not None and found["components"] == dict(components) else None


def remove_decisions(folder: Path) -> int:
    """Remove every decision that is remembered in a cache; gives the bytes that came free.

    Raises:
        StorageError: one cannot be removed.
    """
    freed = 0
    for path in sorted((folder / DECISIONS_FOLDER).glob(f"*{_SUFFIX}")):
        if read_checksummed(path, _SCHEMA) is not None:
            freed += path.stat().st_size
            writer.remove(path)
    return freed


def explain_miss(folder: Path, components: Mapping[str, Any], *, teacher: str | None = None) -> str | None:
    """Why answers that are kept are not used: the nearest ones that might have been meant, and what differs.

    Those are of the same weights, or to the same examples by a teacher of the same path, which has changed.

    Args:
        folder: of the cache.
        components: names with text or numbers; `split` and `data.*` say which examples are answered, and
            `teacher.weights` by whom.
        teacher: its path or name, as entries say it; None: whatever they say.
    """
    found = [
        (_differing(about.components, components), about.key)
        for about in read_entries(folder)
        if about.components.get("split") == components.get("split") and _is_near(about, components, teacher)
    ]
    nearest = min((pair for pair in found if pair[0]), key=lambda pair: len(pair[0]), default=None)
    if nearest is None:
        return None
    words = dict.fromkeys(_WORDS.get(name, _WORDS.get(name.split(".")[0], name)) for name in nearest[0])
    return f"the kept answers {nearest[1]} are not used, for these differ: {', '.join(words)}"


def read_entries(folder: Path) -> Iterator[EntryMetadata]:
    """What every entry of a cache says about itself; damaged ones say nothing."""
    for path in list_entry_folders(folder):
        about = read_metadata(path)
        if about is not None:
            yield about


def list_entry_folders(folder: Path) -> list[Path]:
    """The folders that are named like entries."""
    try:
        return sorted(path for path in (folder / OUTPUTS_FOLDER).iterdir() if is_entry_folder(path))
    except OSError:
        return []


def _place(folder: Path, components: Mapping[str, Any]) -> Path:
    return folder / DECISIONS_FOLDER / f"{compute_fingerprint(components)[:_NAME]}{_SUFFIX}"


def _is_near(about: EntryMetadata, ours: Mapping[str, Any], teacher: str | None) -> bool:
    theirs = about.components
    data, others = ({n: v for n, v in one.items() if n.startswith("data.")} for one in (ours, theirs))
    known = teacher is None or about.described.get("teacher") == teacher
    return (data == others and known) or theirs.get("teacher.weights", ours) == ours.get("teacher.weights")


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [name for name in names if theirs.get(name) != ours.get(name)]
