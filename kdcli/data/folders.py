"""Folders of pictures: a folder for each class, below a folder for each split or below none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kdcli.data.examples import Splits
from kdcli.data.feed import RESIDENT_BYTES
from kdcli.data.pictures import BLOCK, SPLITS, Encoded, load_pictures
from kdcli.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# What people call the folders of the splits, in any case.
NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
_LAYOUT = "expected DIR/train/CLASS/*, DIR/test/CLASS/*, or DIR/CLASS/*"


def read_folders(
    path: Path, *, size: str | tuple[int, int], channels: str | int, resident_bytes: int = RESIDENT_BYTES
) -> Splits:
    """The splits of a folder of pictures, with class names in string order.

    Args:
        resident_bytes: decoded pictures up to this size are kept as an array, others stay encoded.

    Raises:
        DataError: another layout, an empty class, classes that differ between splits, unreadable pictures.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", hint=_LAYOUT)
    ignored: Counter[str] = Counter()
    found = {split: _classes_in(folder, ignored) for split, folder in _split_folders(path, ignored).items()}
    classes = _agreed(path, found)

    def blocks() -> Iterator[list[Encoded]]:
        block: list[Encoded] = []
        for split, by_class in found.items():
            for label, name in enumerate(classes):
                for file in by_class[name]:
                    block.append(Encoded(shown(file), file, label, split))
                    if len(block) == BLOCK:
                        yield block
                        block = []
        yield block

    read = load_pictures(blocks(), name=str(path), size=size, channels=channels, resident_bytes=resident_bytes)
    notes = read.notes
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common(5))
        notes = (f"{path}: {ignored.total()} files are no pictures and were ignored ({kinds})", *notes)
    parts = read.splits
    return Splits(
        str(path), parts["train"], parts.get("validation"), parts.get("test"), classes=classes, notes=notes
    )


def shown(path: Path) -> str:
    """A path for messages, also where its name is no text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _split_folders(path: Path, ignored: Counter[str]) -> dict[str, Path]:
    """The folder of each split, in the order train, validation, test."""
    folders = _folders_in(path, ignored)
    named = {folder: NAMES[folder.name.lower()] for folder in folders if folder.name.lower() in NAMES}
    if not folders:
        raise DataError(f"{path}: holds no folder of pictures", hint=_LAYOUT)
    if not named:
        return {"train": path}
    if len(named) < len(folders):
        other = next(folder.name for folder in folders if folder not in named)
        raise DataError(
            f"{path}: {next(iter(named)).name} is the name of a split, but {other} lies beside it",
            hint=f"{_LAYOUT}; a class of that name needs another one",
        )
    result: dict[str, Path] = {}
    for split in SPLITS:
        of_split = [folder for folder in folders if named[folder] == split]
        if len(of_split) > 1:
            raise DataError(f"{path}: {of_split[0].name} and {of_split[1].name} both name the {split} split")
        if of_split:
            result[split] = of_split[0]
    if "train" not in result:
        first = next(iter(result.values()))
        raise DataError(f"{path}: has no train folder; there is {first.name}", hint=f"--data {first}")
    return result


def _folders_in(path: Path, ignored: Counter[str]) -> list[Path]:
    """The folders in a folder, in string order; files beside them are counted, hidden things too."""
    folders = []
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir() and not _hidden(entry.name):
            folders.append(entry)
        elif not entry.is_dir():
            ignored[_kind(entry.name, loose=True)] += 1
        else:
            ignored["hidden"] += 1
    return folders


def _classes_in(path: Path, ignored: Counter[str]) -> dict[str, list[Path]]:
    folders = _folders_in(path, ignored)
    if not folders:
        raise DataError(f"{path}: holds no folder for a class", hint=_LAYOUT)
    classes: dict[str, list[Path]] = {}
    for folder in folders:
        try:
            folder.name.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(f"{shown(folder)}: the name of this class is no text (UTF-8)") from None
        classes[folder.name] = list(_pictures_in(folder, ignored))
    empty = [name for name, files in classes.items() if not files]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise DataError(
            f"{path}: no picture in the folder of {', '.join(empty[:5])}{more}",
            hint=f"kd reads {', '.join(SUFFIXES)}; remove an empty folder",
        )
    return classes


def _pictures_in(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Every picture below a folder, in string order."""
    for at, below, files in os.walk(folder):
        for name in filter(_hidden, below):
            ignored[_kind(name)] += 1
        below[:] = sorted(name for name in below if not _hidden(name))
        for name in sorted(files):
            if not _hidden(name) and name.lower().endswith(SUFFIXES):
                yield Path(at, name)
            else:
                ignored[_kind(name)] += 1


def _agreed(path: Path, found: dict[str, dict[str, list[Path]]]) -> tuple[str, ...]:
    classes = list(found["train"])
    for split, by_class in found.items():
        for one, other, here, there in ((classes, by_class, "train", split), (by_class, classes, split, "train")):
            missing = [name for name in one if name not in other]
            if missing:
                more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
                raise DataError(
                    f"{path}: classes differ between splits: {here} has {', '.join(missing[:5])}{more}, "
                    f"{there} has not"
                )
    return tuple(classes)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _kind(name: str, *, loose: bool = False) -> str:
    if _hidden(name):
        return "hidden"
    suffix = Path(name).suffix.lower()
    if loose and suffix in SUFFIXES:
        return "pictures outside the class folders"
    return suffix or "without a suffix"
