"""Small decisions that are remembered, and why kept answers are not used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdcli.cache.checksummed_json import fingerprint_of, read_sealed, write_sealed
from kdcli.cache.folder import ANSWERS, CHOICES
from kdcli.cache.locks import sweep
from kdcli.cache.metadata import About, is_place, read_about
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


def remember(folder: Path, components: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Keep a decision that took time. A cache that cannot be written forgets it, which is no error.

    Args:
        folder: of the cache.
        components: names with text or numbers, what the decision follows from.
        document: what was decided and measured; JSON.
    """
    path = _place(folder, components)
    with suppress(StorageError, OSError):
        writer.make_folder(path.parent)
        sweep(path.parent)
        write_sealed(path, {"schema": _SCHEMA, "components": dict(components), "document": dict(document)})


def recall(folder: Path, components: Mapping[str, Any]) -> dict[str, Any] | None:
    """A decision that was remembered for exactly these components, or None."""
    found = read_sealed(_place(folder, components), _SCHEMA)
    return found["document"] if found is not None and found["components"] == dict(components) else None


def forget(folder: Path) -> int:
    """Remove every decision that is remembered in a cache; gives the bytes that came free.

    Raises:
        StorageError: one cannot be removed.
    """
    freed = 0
    for path in sorted((folder / CHOICES).glob(f"*{_SUFFIX}")):
        if read_sealed(path, _SCHEMA) is not None:
            freed += path.stat().st_size
            writer.remove(path)
    return freed


def why_not(folder: Path, components: Mapping[str, Any], *, teacher: str | None = None) -> str | None:
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
        for about in entries_in(folder)
        if about.components.get("split") == components.get("split") and _is_near(about, components, teacher)
    ]
    nearest = min((pair for pair in found if pair[0]), key=lambda pair: len(pair[0]), default=None)
    if nearest is None:
        return None
    words = dict.fromkeys(_WORDS.get(name, _WORDS.get(name.split(".")[0], name)) for name in nearest[0])
    return f"the kept answers {nearest[1]} are not used, for these differ: {', '.join(words)}"


def entries_in(folder: Path) -> Iterator[About]:
    """What every entry of a cache says about itself; damaged ones say nothing."""
    for path in places_in(folder):
        about = read_about(path)
        if about is not None:
            yield about


def places_in(folder: Path) -> list[Path]:
    """The folders that are named like entries."""
    try:
        return sorted(path for path in (folder / ANSWERS).iterdir() if is_place(path))
    except OSError:
        return []


def _place(folder: Path, components: Mapping[str, Any]) -> Path:
    return folder / CHOICES / f"{fingerprint_of(components)[:_NAME]}{_SUFFIX}"


def _is_near(about: About, ours: Mapping[str, Any], teacher: str | None) -> bool:
    theirs = about.components
    data, others = ({n: v for n, v in one.items() if n.startswith("data.")} for one in (ours, theirs))
    known = teacher is None or about.described.get("teacher") == teacher
    return (data == others and known) or theirs.get("teacher.weights", ours) == ours.get("teacher.weights")


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [name for name in names if theirs.get(name) != ours.get(name)]
