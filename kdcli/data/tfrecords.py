"""TFRecord files of `tf.Example` records with encoded images and labels."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from kdcli.data.encoded_images import DEEP_BITS
from kdcli.data.examples import Splits
from kdcli.data.feed import RESIDENT_BYTES
from kdcli.data.image_folders import format_path
from kdcli.data.image_loader import IMAGES_PER_BLOCK, EncodedImage, load_images
from kdcli.data.named_arrays import list_first
from kdcli.data.split_names import SPLIT_NAMES, find_file_split
from kdcli.errors import DataError, did_you_mean, find_nearest_name
from kdcli.lazy import tf
from kdcli.recipe.document import format_set_option
from kdcli.runs.class_names import read_class_names
from kdcli.runs.export_results import LABELS_FILE
from kdcli.screening.pointer import refuse_pointer
from kdcli.tensors import Tensor

_SUFFIX = ".tfrecord"


def find_record_files(path: str) -> list[Path]:
    """Find the files of a path, which is a file, a pattern or a folder; in string order."""
    if Path(path).is_dir():
        return sorted(file for file in Path(path).iterdir() if file.name.endswith(_SUFFIX))
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
    """Read the splits of TFRecord files; file names define the splits.

    Args:
        path: a file, a pattern or a folder.
        image_key: name of the feature with the encoded image.
        label_key: name of the feature with the class number.
        size, channels, bits, resident_bytes: see `load_images`.

    Raises:
        DataError: no files, a missing file, damage, a missing feature, or unreadable images.
    """
    files = find_record_files(path)
    if not files or not files[0].exists():
        raise DataError(f"{path}: no such file", hint="--data 'DIR/train-*.tfrecord' or --data DIR")
    for file in files:
        refuse_pointer(file, DataError)
    by_split = _group_by_split(path, files)

    def blocks() -> Iterator[list[EncodedImage]]:
        for split, split_files in by_split.items():
            for file in split_files:
                yield from _read_file(file, split, image_key=image_key, label_key=label_key)

    images = load_images(
        blocks(), name=path, size=size, channels=channels, bits=bits, resident_bytes=resident_bytes
    )
    if "train" not in images.splits:
        raise DataError(f"{path}: no records")
    return Splits(
        name=path,
        train=images.splits["train"],
        validation=images.splits.get("validation"),
        test=images.splits.get("test"),
        classes=_read_class_names(files[0].parent / LABELS_FILE),
        notes=images.notes,
    )


def _read_class_names(path: Path) -> tuple[str, ...] | None:
    names = read_class_names(path, DataError) if path.exists() else None
    if names and len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: duplicate class name {duplicate!r}")
    return names


def _group_by_split(path: str, files: list[Path]) -> dict[str, list[Path]]:
    splits = {file: find_file_split(file.name.lower().removesuffix(_SUFFIX)) for file in files}
    if set(splits.values()) == {None} or (len(set(splits.values())) == 1 and not Path(path).is_dir()):
        return {"train": files}
    unknown = [format_path(file) for file, split in splits.items() if split is None]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} of {len(files)} file names do not contain a split: {list_first(unknown)}",
            hint="names begin with train, validation or test; or select files: --data 'DIR/train-*.tfrecord'",
        )
    if "train" not in splits.values():
        raise DataError(f"{path}: no train files", hint="select files by pattern: --data 'DIR/test-*.tfrecord'")
    if Path(path).is_dir():
        _check_shards(files)
    grouped = {split: [file for file in files if splits[file] == split] for split in SPLIT_NAMES}
    return {split: split_files for split, split_files in grouped.items() if split_files}


def _check_shards(files: list[Path]) -> None:
    """Refuse a folder with a missing shard, such as `train-00003-of-00005`."""
    shards: dict[tuple[str, int], set[int]] = {}
    for file in files:
        match = re.search(r"^(.*?)(\d+)-of-(\d+)", file.name)
        if match:
            shards.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (start, total), numbers in shards.items():
        missing = [f"{start}{number:05}-of-{total:05}" for number in range(total) if number not in numbers]
        if missing:
            raise DataError(f"{files[0].parent}: {len(missing)} of {total} files missing: {list_first(missing)}")


def _read_file(file: Path, split: str, *, image_key: str, label_key: str) -> Iterator[list[EncodedImage]]:
    features = {
        image_key: tf.io.FixedLenFeature([], tf.string),
        label_key: tf.io.FixedLenFeature([], tf.int64),
    }
    done = 0
    for records in _read_batches(file):
        try:
            parsed = tf.io.parse_example(records, features)
        # TensorFlow quotes the record in its message, which may not be valid UTF-8.
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
            _raise_record_error(file, records, start=done, image_key=image_key, label_key=label_key)
            raise DataError(f"{format_path(file)}: cannot parse the records from number {done}") from error
        pairs = zip(parsed[image_key].numpy(), parsed[label_key].numpy(), strict=True)
        yield [
            EncodedImage(
                name=f"{format_path(file)} record {number}", content=content, label=int(label), split=split
            )
            for number, (content, label) in enumerate(pairs, start=done)
        ]
        done += len(records)


def _read_batches(file: Path) -> Iterator[Tensor]:
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
            f"{format_path(file)}: damaged or truncated at record {number} (counted from 0)",
            hint="copy the file again, or remove it; kd reads uncompressed files only",
        ) from None
    except tf.errors.OpError as error:
        raise DataError(f"{format_path(file)}: cannot be read: {error.message:.200}") from None


def _raise_record_error(file: Path, records: Tensor, *, start: int, image_key: str, label_key: str) -> None:
    """Find a record that is not a `tf.Example` or lacks a feature.

    Raises:
        DataError: names the record.
    """
    for number, record in enumerate(records.numpy(), start=start):
        where = f"{format_path(file)}: record {number}"
        try:
            found = tf.train.Example.FromString(record).features.feature
        # Protobuf raises an error of its own, whose name differs between versions.
        except Exception as error:
            raise DataError(f"{where} is not a tf.Example") from error
        for setting, key, kind in (
            ("image_key", image_key, "bytes_list"),
            ("label_key", label_key, "int64_list"),
        ):
            if key not in found:
                fitting = sorted(name for name in found if getattr(found[name], kind).value)
                guess = find_nearest_name(key, fitting) or next(iter(fitting), None)
                raise DataError(
                    f"{where}: no feature {key!r}; {did_you_mean(key, found)}features: "
                    f"{', '.join(sorted(found)) or 'none'}",
                    hint=guess and f"{format_set_option(f'data.source.{setting}', guess)} reads another feature",
                )
            values = getattr(found[key], kind).value
            if len(values) != 1:
                raise DataError(f"{where}: feature {key!r} must hold one {kind} value, got {len(values)}")
