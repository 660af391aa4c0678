"""Folders of pictures: a folder for each class, below a folder for each split or below none."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from kdcli.data.encoded_images import DEEP_BITS
from kdcli.data.examples import Splits
from kdcli.data.feed import RESIDENT_BYTES
from kdcli.data.image_loader import IMAGES_PER_BLOCK, EncodedImage, load_images
from kdcli.data.split_names import SPLIT_NAMES, UNLABELLED, find_splits
from kdcli.errors import DataError
from kdcli.recipe.document import format_set_option

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# Formats of images that TensorFlow does not decode.
UNSUPPORTED_SUFFIXES = (
    ".tif",
    ".tiff",
    ".jfif",
    ".jp2",
    ".heic",
    ".heif",
    ".avif",
    ".ppm",
    ".pgm",
    ".pbm",
    ".tga",
    ".dcm",
)
# A folder of images, and one beside it of what belongs to each of them.
_IMAGES = ("image", "images", "img", "imgs", "input", "inputs", "original", "originals")
_MAPS = ("mask", "masks", "label", "labels", "annotation", "annotations", "gt", "ground_truth", "groundtruth")
# Files that hold data by themselves, and a folder of folders of folders that is looked into.
DATA_SUFFIXES = (".npz", ".csv", ".parquet")
_DEEPEST = 8
_LAYOUT = "expected DIR/train/CLASS/*, DIR/test/CLASS/*, or DIR/CLASS/*"
_FilesByClass = dict[str, list[Path]]


def read_image_folders(
    path: Path,
    *,
    size: str | tuple[int, int],
    channels: str | int,
    bits: int = DEEP_BITS,
    resident_bytes: int = RESIDENT_BYTES,
) -> Splits:
    """The splits of a folder of pictures, with class names in string order.

    Args:
        size, channels, bits: as for `load_pictures`.
        resident_bytes: decoded pictures up to this size are kept as an array, others stay encoded.

    Raises:
        DataError: another layout, an empty class, classes that differ between splits, unreadable pictures.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", hint=_LAYOUT)
    ignored: Counter[str] = Counter()
    notes: list[str] = []
    found = _splits_in(path, ignored, notes)
    classes = _agreed(path, found)

    def blocks() -> Iterator[list[EncodedImage]]:
        block: list[EncodedImage] = []
        for split, by_class in found.items():
            for label, name in enumerate(classes):
                for file in by_class[name]:
                    block.append(EncodedImage(format_path(file), file, label, split))
                    if len(block) == IMAGES_PER_BLOCK:
                        yield block
                        block = []
        yield block

    read = load_images(
        blocks(), name=str(path), size=size, channels=channels, bits=bits, resident_bytes=resident_bytes
    )
    notes.extend(_left_out(path, ignored))
    parts = read.splits
    return Splits(
        str(path),
        parts["train"],
        parts.get("validation"),
        parts.get("test"),
        classes=classes,
        notes=(*notes, *read.notes),
    )


def _left_out(path: Path, ignored: Counter[str]) -> Iterator[str]:
    """Sentences about the files that were not read."""
    images = Counter({kind: count for kind, count in ignored.items() if kind in UNSUPPORTED_SUFFIXES})
    others = ignored - images
    if images:
        kinds = ", ".join(IMAGE_SUFFIXES)
        yield f"{path}: images left out: {_counted(images)}; kd reads {kinds}"
    if others:
        yield f"{path}: {others.total()} files are no pictures and were ignored ({_counted(others)})"


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))


def format_path(path: Path) -> str:
    """A path for messages, also where its name is no text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _splits_in(path: Path, ignored: Counter[str], notes: list[str]) -> dict[str, _FilesByClass]:
    """The images of each split by class, in the order train, validation, test."""
    inside = _unwrapped(path, notes)
    folders = _folders_in(inside, ignored)
    if not folders:
        raise DataError(f"{path}: holds no folder of pictures", hint=_other_data(path) or _LAYOUT)
    splits = find_splits(folder.name for folder in folders)
    if not splits:
        transposed = _splits_inside_classes(inside, folders)
        if transposed:
            notes.append(f"{path}: the folders {', '.join(transposed)} inside each class are its splits")
            return {
                split: _classes_of(inside, {folder.name: folder / name for folder in folders}, ignored)
                for name, split in transposed.items()
            }
        return {"train": _classes_in(inside, ignored)}
    by_split = _split_folders(path, folders, splits)
    for folder in (folder for folder in folders if splits[folder.name] == UNLABELLED):
        notes.append(f"{folder}: has no classes by its name and was left out")
    return {
        split: _classes_in(_unwrapped(folder, notes, of_split=True), ignored) for split, folder in by_split.items()
    }


def _split_folders(path: Path, folders: list[Path], splits: Mapping[str, str]) -> dict[str, Path]:
    """The folder of each split, in the order train, validation, test."""
    by_split: dict[str, list[Path]] = {split: [] for split in (*SPLIT_NAMES, UNLABELLED)}
    for folder in folders:
        if folder.name in splits:
            by_split[splits[folder.name]].append(folder)
    first = {split: by_split[split][0] for split in SPLIT_NAMES if by_split[split]}
    way_on = f"{_as_source(first)} says which is which" if "train" in first else None
    other = next((folder for folder in folders if folder.name not in splits), None)
    if other is not None:
        raise DataError(
            f"{path}: {next(iter(splits))} is the name of a split, but {other.name} lies beside it",
            hint=f"{way_on or _LAYOUT}; a class of that name needs another one",
        )
    for split in SPLIT_NAMES:
        if len(by_split[split]) > 1:
            one, two = by_split[split][:2]
            if way_on and split == "validation" and "test" not in first:
                way_on = f"{_as_source({**first, 'test': two})} says which is which"
            raise DataError(f"{path}: {one.name} and {two.name} both name the {split} split", hint=way_on)
    for folder in first.values():
        if folder != first.get("train") and not _folders_in(folder, Counter()):
            hint = f"--data {shlex.quote(str(first['train']))} leaves it out" if "train" in first else _LAYOUT
            raise DataError(f"{folder}: holds no folder for a class", hint=hint)
    if "train" not in first:
        there = next(iter(first.values()), folders[0])
        hint = f"--data {shlex.quote(str(there))}"
        raise DataError(f"{path}: has no train folder; there is {there.name}", hint=hint)
    return first


def _unwrapped(path: Path, notes: list[str], *, of_split: bool = False) -> Path:
    """The folder itself, or the only one in it where that holds nothing but folders, and so on."""
    inside = path
    for _ in range(_DEEPEST):
        folders = _folders_in(inside, Counter())
        if len(folders) != 1 or (find_splits([folders[0].name]) and not of_split):
            break
        if _has_images(inside) or _has_images(folders[0]) or not _folders_in(folders[0], Counter()):
            break
        inside = folders[0]
    if inside != path:
        notes.append(f"{path}: holds one folder; {inside} was read")
    return inside


def _splits_inside_classes(path: Path, folders: list[Path]) -> dict[str, str]:
    """The splits by the names of their folders where every class holds the same ones, else nothing.

    Raises:
        DataError: every folder holds the same folders, whose names are no splits: probably all are splits.
    """
    inner = [
        [] if _has_images(folder) else [one.name for one in _folders_in(folder, Counter())] for folder in folders
    ]
    if len(folders) < 2 or len(inner[0]) < 2 or any(names != inner[0] for names in inner):
        return {}
    splits = find_splits(inner[0])
    if len(splits) == len(inner[0]) == len(set(splits.values())) and "train" in splits.values():
        return {name: split for split in SPLIT_NAMES for name in inner[0] if splits[name] == split}
    counts = {folder: sum(1 for _ in _pictures_in(folder, Counter())) for folder in folders}
    train, test = sorted(folders, key=lambda folder: -counts[folder])[:2]
    some = f"{', '.join(inner[0][:5])}{', ...' if len(inner[0]) > 5 else ''}"
    raise DataError(
        f"{path}: {', '.join(folder.name for folder in folders[:5])} hold the same folders ({some}), as splits do "
        "and classes do not",
        hint=f"{_as_source({'train': train, 'test': test})} reads splits; as classes, each needs its images in "
        "one folder",
    )


def _as_source(folders: Mapping[str, Path]) -> str:
    """`--set 'data.source={train: D/x, test: D/y}'`, to type in a shell."""
    return format_set_option("data.source", {split: str(folder) for split, folder in folders.items()})


def _other_data(path: Path) -> str | None:
    """How to name files in a folder that hold data by themselves."""
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in DATA_SUFFIXES)
    splits = find_splits(file.stem for file in files)
    by_split = {splits[file.stem]: file for file in files if splits.get(file.stem) in SPLIT_NAMES}
    if "train" in by_split:
        return _as_source({split: by_split[split] for split in SPLIT_NAMES if split in by_split})
    return f"--data {shlex.quote(str(files[0]))}" if files else None


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


def _has_images(path: Path) -> bool:
    return any(name.lower().endswith(IMAGE_SUFFIXES) and not _hidden(name) for name in os.listdir(path))


def _classes_in(path: Path, ignored: Counter[str]) -> _FilesByClass:
    folders = _folders_in(path, ignored)
    if not folders:
        raise DataError(f"{path}: holds no folder for a class", hint=_LAYOUT)
    return _classes_of(path, {folder.name: folder for folder in folders}, ignored)


def _classes_of(path: Path, folders: Mapping[str, Path], ignored: Counter[str]) -> _FilesByClass:
    """The images of each class, by the folder that holds them.

    Raises:
        DataError: no classes but images and their maps, a name that is no text, a folder without images.
    """
    images = next((name for name in folders if name.lower() in _IMAGES), None)
    maps = next((name for name in folders if name.lower() in _MAPS), None)
    if images and maps:
        raise DataError(
            f"{path}: {images} and {maps} hold images and what belongs to them, not two classes",
            hint="maps for segmentation are read from arrays: np.savez('data.npz', x_train=..., y_train=...), "
            "then --data data.npz",
        )
    classes: _FilesByClass = {}
    for name, folder in folders.items():
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(f"{format_path(folder)}: the name of this class is no text (UTF-8)") from None
        classes[name] = list(_pictures_in(folder, ignored))
    empty = [name for name, files in classes.items() if not files]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        there = Counter({kind: count for kind, count in ignored.items() if kind in UNSUPPORTED_SUFFIXES})
        raise DataError(
            f"{path}: no picture in the folder of {', '.join(empty[:5])}{more}",
            hint=f"kd reads {', '.join(IMAGE_SUFFIXES)}; "
            + (f"convert the others ({_counted(there)}) to .png" if there else "remove an empty folder"),
        )
    return classes


def _pictures_in(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Every picture below a folder, in string order."""
    for at, below, files in os.walk(folder):
        for name in filter(_hidden, below):
            ignored[_kind(name)] += 1
        below[:] = sorted(name for name in below if not _hidden(name))
        for name in sorted(files):
            if not _hidden(name) and name.lower().endswith(IMAGE_SUFFIXES):
                yield Path(at, name)
            else:
                ignored[_kind(name)] += 1


def _agreed(path: Path, found: Mapping[str, _FilesByClass]) -> tuple[str, ...]:
    classes = list(found["train"])
    for split, by_class in found.items():
        for one, other, here, there in ((classes, by_class, "train", split), (by_class, classes, split, "train")):
            missing = [name for name in one if name not in other]
            if missing:
                more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
                raise DataError(
                    f"{path}: classes differ between splits: {here} has {', '.join(missing[:5])}{more}, "
                    f"{there} has not",
                    hint="each split needs a folder with an image for each class",
                )
    return tuple(classes)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _kind(name: str, *, loose: bool = False) -> str:
    if _hidden(name):
        return "hidden"
    suffix = Path(name).suffix.lower()
    if loose and suffix in IMAGE_SUFFIXES:
        return "pictures outside the class folders"
    return suffix or "without a suffix"
