"""TFRecord files of `tf.Example`s with encoded pictures and labels."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdcli.data.encoded_images import DEEP_BITS
from kdcli.data.examples import Splits
from kdcli.data.feed import RESIDENT_BYTES
from kdcli.data.image_folders import format_path
from kdcli.data.image_loader import IMAGES_PER_BLOCK, EncodedImage, load_images
from kdcli.data.split_names import SPLIT_NAMES, find_file_split
from kdcli.errors import DataError, did_you_mean, find_nearest_name
from kdcli.lazy import tf
from kdcli.recipe.document import format_set_option
from kdcli.runs.class_names import read_class_names
from kdcli.runs.export_results import LABELS_FILE
from kdcli.screening.pointer import refuse_pointer

TFRECORD_SUFFIX = ".tfrecord"


def find_record_files(path: str) -> list[Path]:
    """The files that a path stands for: one file, a pattern, or a folder; in string order."""
    if Path(path).is_dir():
        return sorted(file for file in Path(path).iterdir() if file.name.endswith(TFRECORD_SUFFIX))
    return sorted(Path(found) for found in glob.glob(path)) if glob.has_magic(path) else [Path(path)]


def read_tfrecords(
    path: str,
    *,
    image_key: str,
    label_key: str,
    size: str | tuple[int, int],
    channels: str | int,
    bits: int = DEEP_BITS,
    resident_bytes: int = RESIDENT_BYTES,
) -> Splits:
    """The splits of TFRecord files, by the names of the files.

    Args:
        size, channels, bits: as for `load_pictures`.
        resident_bytes: decoded pictures up to this size are kept as an array, others stay encoded.

    Raises:
        DataError: no files, a missing part, damage, a missing feature, unreadable pictures.
    """
    files = find_record_files(path)
    if not files or not files[0].exists():
        raise DataError(f"{path}: no such file", hint="--data 'DIR/train-*.tfrecord' or --data DIR")
    for file in files:
        refuse_pointer(file, DataError)
    by_split = _by_split(path, files)

    def blocks() -> Iterator[list[EncodedImage]]:
        for split, of_split in by_split.items():
            for file in of_split:
                yield from _read_file(file, split, image_key, label_key)

    read = load_images(blocks(), name=path, size=size, channels=channels, bits=bits, resident_bytes=resident_bytes)
    parts, labels = read.splits, files[0].parent / LABELS_FILE
    names = read_class_names(labels, DataError) if labels.exists() else None
    if names and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{labels}: names {twice!r} twice")
    if "train" not in parts:
        raise DataError(f"{path}: holds no records")
    return Splits(
        path, parts["train"], parts.get("validation"), parts.get("test"), classes=names, notes=read.notes
    )


def _by_split(path: str, files: list[Path]) -> dict[str, list[Path]]:
    splits = {file: find_file_split(file.name.lower().removesuffix(TFRECORD_SUFFIX)) for file in files}
    if set(splits.values()) == {None} or (len(set(splits.values())) == 1 and not Path(path).is_dir()):
        return {"train": files}
    unknown = [format_path(file) for file, split in splits.items() if split is None]
    if unknown:
        raise DataError(
            f"{path}: the names of {len(unknown)} files tell no split ({', '.join(unknown[:5])}), others do",
            hint="names begin with train, validation or test; a pattern chooses: --data 'DIR/train-*.tfrecord'",
        )
    if "train" not in splits.values():
        raise DataError(f"{path}: has no train files", hint="a pattern chooses: --data 'DIR/test-*.tfrecord'")
    if Path(path).is_dir():
        _refuse_gaps(files)
    grouped = {split: [file for file in files if splits[file] == split] for split in SPLIT_NAMES}
    return {split: of_split for split, of_split in grouped.items() if of_split}


def _refuse_gaps(files: list[Path]) -> None:
    """Refuse a folder in which `train-00003-of-00005` is missing."""
    there: dict[tuple[str, int], set[int]] = {}
    for file in files:
        match = re.search(r"^(.*?)(\d+)-of-(\d+)", file.name)
        if match:
            there.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (start, total), numbers in there.items():
        missing = sorted(set(range(total)) - numbers)
        if missing:
            raise DataError(
                f"{files[0].parent}: {len(missing)} of {total} files are missing: "
                + ", ".join(f"{start}{number:05}-of-{total:05}" for number in missing[:5])
            )


def _read_file(file: Path, split: str, image_key: str, label_key: str) -> Iterator[list[EncodedImage]]:
    features = {
        image_key: tf.io.FixedLenFeature([], tf.string),
        label_key: tf.io.FixedLenFeature([], tf.int64),
    }
    done = 0
    for records in _batches(file):
        try:
            parsed = tf.io.parse_example(records, features)
        # TensorFlow quotes the record in its message, which may be no text.
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
            _name_fault(file, records, done, image_key, label_key)
            raise DataError(f"{format_path(file)}: records from {done} on cannot be parsed") from error
        pairs = zip(parsed[image_key].numpy(), parsed[label_key].numpy(), strict=True)
        names = (f"{format_path(file)} record {number}" for number in range(done, done + len(records)))
        yield [
            EncodedImage(name, content, int(label), split)
            for name, (content, label) in zip(names, pairs, strict=True)
        ]
        done += len(records)


def _batches(file: Path) -> Iterator[Any]:
    try:
        yield from tf.data.TFRecordDataset(str(file)).batch(IMAGES_PER_BLOCK)
    except tf.errors.DataLossError:
        number = 0
        try:
            for _ in tf.data.TFRecordDataset(str(file)):
                number += 1
        except tf.errors.DataLossError:
            pass
        raise DataError(
            f"{format_path(file)}: damaged or cut off at record {number} (counted from 0)",
            hint="copy the file again, or leave it out; kd reads files that are not compressed",
        ) from None
    except tf.errors.OpError as error:
        raise DataError(f"{format_path(file)}: cannot be read: {error.message:.200}") from None


def _name_fault(file: Path, records: Any, done: int, image_key: str, label_key: str) -> None:
    """Find the record that is no example, or has not the features that are asked for.

    Raises:
        DataError: naming the record.
    """
    for number, record in enumerate(records.numpy(), start=done):
        where = f"{format_path(file)}: record {number}"
        try:
            found = tf.train.Example.FromString(record).features.feature
        # A record that is no message at all: protobuf has its own error for it, with other names over time.
        except Exception as error:
            raise DataError(f"{where} is no tf.Example") from error
        for setting, key, kind in (
            ("image_key", image_key, "bytes_list"),
            ("label_key", label_key, "int64_list"),
        ):
            if key not in found:
                fitting = sorted(name for name in found if getattr(found[name], kind).value)
                guess = find_nearest_name(key, fitting) or next(iter(fitting), None)
                raise DataError(
                    f"{where} has no feature {key!r}; {did_you_mean(key, found)}features: "
                    f"{', '.join(sorted(found)) or 'none'}",
                    hint=guess and f"{format_set_option(f'data.source.{setting}', guess)} names another",
                )
            values = getattr(found[key], kind).value
            if len(values) != 1:
                raise DataError(f"{where}: the feature {key!r} must hold one value of {kind}, got {len(values)}")
