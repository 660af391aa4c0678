"""Image folders: one folder per class, inside one folder per split or without splits."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from kdcli.data.combined_splits import describe_difference
from kdcli.data.encoded_images import DEEP_BITS
from kdcli.data.examples import Splits
from kdcli.data.feed import RESIDENT_BYTES
from kdcli.data.image_loader import IMAGES_PER_BLOCK, EncodedImage, load_images
from kdcli.data.named_arrays import list_first
from kdcli.data.split_names import SPLIT_NAMES, UNLABELLED, find_splits
from kdcli.errors import DataError
from kdcli.recipe.document import format_set_option

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# Image formats that TensorFlow does not decode.
_UNSUPPORTED_SUFFIXES = tuple(".tif .tiff .jfif .jp2 .heic .heif .avif .ppm .pgm .pbm .tga .dcm".split())
# Files that are data by themselves.
_DATA_SUFFIXES = (".npz", ".csv", ".parquet")
# Names of a folder of images, and of a folder with a label map for each of them.
_IMAGES = ("image", "images", "img", "imgs", "input", "inputs", "original", "originals")
_MAPS = ("mask", "masks", "label", "labels", "annotation", "annotations", "gt", "ground_truth", "groundtruth")
# Nested folders that are searched for data.
_MAX_DEPTH = 8
_LAYOUT = "expected DIR/train/CLASS/*, DIR/test/CLASS/*, or DIR/CLASS/*"
_FilesByClass = dict[str, list[Path]]
# In the place of a class, for images without labels.
_NO_CLASS = ""


def read_image_folders(
    path: Path,
    *,
    size: str | tuple[int, int],
    channels: str | int,
    bits: int = DEEP_BITS,
    resident_bytes: int = RESIDENT_BYTES,
) -> Splits:
    """Read the splits of a folder of images, with class names in string order.

    Images that are in the folder itself, and in no folder inside it, have no labels.

    Args:
        path: the folder.
        size, channels, bits, resident_bytes: see `load_images`.

    Raises:
        DataError: another layout, an empty class, classes that differ between splits, or unreadable images.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder", hint=_LAYOUT)
    ignored: Counter[str] = Counter()
    notes: list[str] = []
    found = _find_files(path, ignored, notes)
    classes = _check_classes(path, found)
    labelled = classes != (_NO_CLASS,)

    def blocks() -> Iterator[list[EncodedImage]]:
        block: list[EncodedImage] = []
        for split, by_class in found.items():
            for label, name in enumerate(classes):
                for file in by_class[name]:
                    block.append(EncodedImage(name=format_path(file), content=file, label=label, split=split))
                    if len(block) == IMAGES_PER_BLOCK:
                        yield block
                        block = []
        yield block

    images = load_images(
        blocks(), name=str(path), size=size, channels=channels, bits=bits, resident_bytes=resident_bytes
    )
    notes.extend(_describe_ignored(path, ignored))
    train = images.splits["train"]
    return Splits(
        name=str(path),
        train=train if labelled else replace(train, labels=None),
        validation=images.splits.get("validation"),
        test=images.splits.get("test"),
        classes=classes if labelled else None,
        notes=(*notes, *images.notes),
    )


def format_path(path: Path) -> str:
    """Format a path for messages, also if its name is not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _describe_ignored(path: Path, ignored: Counter[str]) -> Iterator[str]:
    """Yield notes about files that were not read."""
    images = Counter({kind: count for kind, count in ignored.items() if kind in _UNSUPPORTED_SUFFIXES})
    others = ignored - images
    if images:
        kinds = ", ".join(_IMAGE_SUFFIXES)
        yield f"{path}: ignored images of unsupported formats: {_format_counts(images)}; kd reads {kinds}"
    if others:
        yield f"{path}: ignored files that are not images: {others.total()} ({_format_counts(others)})"


def _format_counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))


def _find_files(path: Path, ignored: Counter[str], notes: list[str]) -> dict[str, _FilesByClass]:
    """Find the images of each split by class, in the order train, validation, test."""
    root = _unwrap(path, notes)
    folders = _list_folders(root, ignored)
    if not folders and _has_images(root):
        notes.append(f"{path}: the images are in no class folders, so they have no labels")
        ignored.clear()
        return {"train": {_NO_CLASS: list(_walk_images(root, ignored))}}
    if not folders:
        raise DataError(f"{path}: no image folders", hint=_suggest_other_data(path) or _LAYOUT)
    splits = find_splits(folder.name for folder in folders)
    if not splits:
        inner = _find_splits_in_classes(root, folders)
        if inner:
            notes.append(f"{path}: read the folders {', '.join(inner)} inside each class as splits")
            return {
                split: _list_classes(root, {folder.name: folder / name for folder in folders}, ignored)
                for name, split in inner.items()
            }
        return {"train": _list_class_folders(root, ignored)}
    by_split = _choose_split_folders(path, folders, splits)
    for folder in (folder for folder in folders if splits[folder.name] == UNLABELLED):
        notes.append(f"{folder}: ignored, because its name stands for examples without classes")
    return {
        split: _list_class_folders(_unwrap(folder, notes, is_split=True), ignored)
        for split, folder in by_split.items()
    }


def _choose_split_folders(path: Path, folders: list[Path], splits: Mapping[str, str]) -> dict[str, Path]:
    """Choose the folder of each split, in the order train, validation, test."""
    by_split: dict[str, list[Path]] = {split: [] for split in (*SPLIT_NAMES, UNLABELLED)}
    for folder in folders:
        if folder.name in splits:
            by_split[splits[folder.name]].append(folder)
    chosen = {split: by_split[split][0] for split in SPLIT_NAMES if by_split[split]}
    hint = f"{_format_source(chosen)} selects the folders" if "train" in chosen else None
    other = next((folder for folder in folders if folder.name not in splits), None)
    if other is not None:
        name = next(iter(splits))
        raise DataError(
            f"{path}: {name} is a split name, but {other.name} in the same folder is not",
            hint=f"{hint or _LAYOUT}; rename {name} if it is a class",
        )
    for split in SPLIT_NAMES:
        if len(by_split[split]) > 1:
            first, second = by_split[split][:2]
            if hint and split == "validation" and "test" not in chosen:
                hint = f"{_format_source({**chosen, 'test': second})} selects the folders"
            raise DataError(f"{path}: {first.name} and {second.name} both name the {split} split", hint=hint)
    for folder in chosen.values():
        if folder != chosen.get("train") and not _list_folders(folder, Counter()):
            hint = f"--data {shlex.quote(str(chosen['train']))} ignores it" if "train" in chosen else _LAYOUT
            raise DataError(f"{folder}: no class folders", hint=hint)
    if "train" not in chosen:
        folder = next(iter(chosen.values()), folders[0])
        hint = f"--data {shlex.quote(str(folder))}"
        raise DataError(f"{path}: no train folder; found {folder.name}", hint=hint)
    return chosen


def _unwrap(path: Path, notes: list[str], *, is_split: bool = False) -> Path:
    """Descend while a folder contains nothing but one folder of folders."""
    inside = path
    for _ in range(_MAX_DEPTH):
        folders = _list_folders(inside, Counter())
        if len(folders) != 1 or (find_splits([folders[0].name]) and not is_split):
            break
        if _has_images(inside) or _has_images(folders[0]) or not _list_folders(folders[0], Counter()):
            break
        inside = folders[0]
    if inside != path:
        notes.append(f"{path}: contains only one folder; read {inside}")
    return inside


def _find_splits_in_classes(path: Path, folders: list[Path]) -> dict[str, str]:
    """Find splits by folder name if all classes contain the same split folders; else return nothing.

    Raises:
        DataError: all folders contain the same folders, whose names are not splits: the outer folders are
            probably the splits.
    """
    inner = [
        [] if _has_images(folder) else [one.name for one in _list_folders(folder, Counter())] for folder in folders
    ]
    if len(folders) < 2 or len(inner[0]) < 2 or any(names != inner[0] for names in inner):
        return {}
    splits = find_splits(inner[0])
    if len(splits) == len(inner[0]) == len(set(splits.values())) and "train" in splits.values():
        return {name: split for split in SPLIT_NAMES for name in inner[0] if splits[name] == split}
    counts = {folder: sum(1 for _ in _walk_images(folder, Counter())) for folder in folders}
    train, test = sorted(folders, key=lambda folder: -counts[folder])[:2]
    names = f"{', '.join(inner[0][:5])}{', ...' if len(inner[0]) > 5 else ''}"
    raise DataError(
        f"{path}: {', '.join(folder.name for folder in folders[:5])} contain the same folders ({names}), like "
        "splits and unlike classes",
        hint=f"{_format_source({'train': train, 'test': test})} reads splits; for classes, store the images of "
        "each class in one folder",
    )


def _format_source(folders: Mapping[str, Path]) -> str:
    """Format `--set 'data.source={train: D/x, test: D/y}'` for a shell."""
    return format_set_option("data.source", {split: str(folder) for split, folder in folders.items()})


def _suggest_other_data(path: Path) -> str | None:
    """Suggest options that read data files in a folder."""
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _DATA_SUFFIXES)
    splits = find_splits(file.stem for file in files)
    by_split = {splits[file.stem]: file for file in files if splits.get(file.stem) in SPLIT_NAMES}
    if "train" in by_split:
        return _format_source({split: by_split[split] for split in SPLIT_NAMES if split in by_split})
    return f"--data {shlex.quote(str(files[0]))}" if files else None


def _list_folders(path: Path, ignored: Counter[str]) -> list[Path]:
    """List the folders in a folder, in string order; count files and hidden folders as ignored."""
    folders = []
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir() and not _is_hidden(entry.name):
            folders.append(entry)
        elif not entry.is_dir():
            ignored[_classify(entry.name, in_class=False)] += 1
        else:
            ignored["hidden"] += 1
    return folders


def _has_images(path: Path) -> bool:
    return any(name.lower().endswith(_IMAGE_SUFFIXES) and not _is_hidden(name) for name in os.listdir(path))


def _list_class_folders(path: Path, ignored: Counter[str]) -> _FilesByClass:
    folders = _list_folders(path, ignored)
    if not folders:
        raise DataError(f"{path}: no class folders", hint=_LAYOUT)
    return _list_classes(path, {folder.name: folder for folder in folders}, ignored)


def _list_classes(path: Path, folders: Mapping[str, Path], ignored: Counter[str]) -> _FilesByClass:
    """List the images of each class, by the folder that contains them.

    Raises:
        DataError: the folders are images and label maps, a name is not valid UTF-8, or a folder has no images.
    """
    images = next((name for name in folders if name.lower() in _IMAGES), None)
    maps = next((name for name in folders if name.lower() in _MAPS), None)
    if images and maps:
        raise DataError(
            f"{path}: {images} and {maps} look like images and their label maps, not like two classes",
            hint="segmentation maps are read from arrays: np.savez('data.npz', x_train=..., y_train=...), "
            "then --data data.npz",
        )
    classes: _FilesByClass = {}
    for name, folder in folders.items():
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(f"{format_path(folder)}: the class name is not valid UTF-8") from None
        classes[name] = list(_walk_images(folder, ignored))
    empty = [name for name, files in classes.items() if not files]
    if empty:
        unsupported = Counter({kind: count for kind, count in ignored.items() if kind in _UNSUPPORTED_SUFFIXES})
        convert = f"convert the others ({_format_counts(unsupported)}) to .png"
        raise DataError(
            f"{path}: no images in {list_first(empty)}",
            hint=f"kd reads {', '.join(_IMAGE_SUFFIXES)}; {convert if unsupported else 'remove empty folders'}",
        )
    return classes


def _walk_images(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Yield all images below a folder, in string order."""
    for at, below, files in os.walk(folder):
        for name in filter(_is_hidden, below):
            ignored[_classify(name)] += 1
        below[:] = sorted(name for name in below if not _is_hidden(name))
        for name in sorted(files):
            if not _is_hidden(name) and name.lower().endswith(_IMAGE_SUFFIXES):
                yield Path(at, name)
            else:
                ignored[_classify(name)] += 1


def _check_classes(path: Path, found: Mapping[str, _FilesByClass]) -> tuple[str, ...]:
    """Check that all splits have the same classes; return them."""
    classes = list(found["train"])
    for split, by_class in found.items():
        difference = describe_difference("classes", classes, list(by_class), names=("train", split))
        if difference:
            raise DataError(f"{path}: {difference}", hint="each split needs a folder with images for each class")
    return tuple(classes)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _classify(name: str, *, in_class: bool = True) -> str:
    """Classify a file that is not read."""
    if _is_hidden(name):
        return "hidden"
    suffix = Path(name).suffix.lower()
    if not in_class and suffix in _IMAGE_SUFFIXES:
        return "outside the class folders"
    return suffix or "without a suffix"
