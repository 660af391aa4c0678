"""Tables of numbers: CSV and Parquet files with a label column."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.examples import SINGLE_INPUT, Examples, Splits
from kdcli.errors import DataError, ModelError, did_you_mean, find_nearest_name, summarize_error
from kdcli.recipe.document import format_set_option
from kdcli.screening.pointer import refuse_pointer

_WEIGHT_COLUMN = "weight"
_ROWS_PER_BLOCK = 8192
# Names of index columns.
_INDEX = re.compile(r"|(?i:unnamed:.*|index|idx|row|id|.*[_ -]id)|.*[a-z]I[dD]")
# With at least this many rows, 0, 1, 2, ... is an index column under any name.
_MIN_INDEX_ROWS = 10


def read_table(path: Path, *, label: str | None, weight: str | None, drop: Sequence[str] = ()) -> Splits:
    """Read a table as one training split, with inputs (n, columns) in float32.

    Args:
        path: `.csv` file (commas, a header line) or `.parquet` file.
        label: name of the label column, or None; texts become classes in string order.
        weight: name of the column with sample weights; None for the column `weight`, if there is one.
        drop: names of columns to ignore.

    Raises:
        DataError: the file is missing or has no header, a cell is not a number, or a column is unknown.
        ModelError: a Parquet file without pyarrow.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="--data FILE.csv or --data FILE.parquet")
    refuse_pointer(path, DataError)
    table = _Parquet(path) if path.suffix.lower() == ".parquet" else _Csv(path)
    columns = table.columns
    for setting, name in (("label", label), ("weight", weight), *(("drop", name) for name in drop)):
        if name is not None and name not in columns:
            guess = format_set_option(f"data.source.{setting}", find_nearest_name(name, columns) or columns[-1])
            raise DataError(
                f"{path}: no column {name!r}; {did_you_mean(name, columns)}columns: {', '.join(columns)}",
                hint=f"{guess} selects a column" + ("; null means no labels" if setting == "label" else ""),
            )
    notes: tuple[str, ...] = ()
    if weight is None and _WEIGHT_COLUMN in columns and label != _WEIGHT_COLUMN:
        weight = _WEIGHT_COLUMN
        notes = (f"{path}: column {weight!r} is used as sample weights, not as an input",)
    features = [name for name in columns if name not in (label, weight, *drop)]
    if not features:
        raise DataError(f"{path}: no input columns left; columns: {', '.join(columns)}")
    numbers, texts = table.read([*features, *([weight] if weight else [])], label)
    if not len(numbers):
        raise DataError(f"{path}: contains a header but no rows")
    notes += tuple(_describe_indexes(path, features, numbers))
    labels, classes = _encode_labels(texts, f"{path}: column {label!r}", table)
    weights = _check_weights(numbers[:, -1], f"{path}: column {weight!r}", table) if weight else None
    inputs = {SINGLE_INPUT: np.ascontiguousarray(numbers[:, : len(features)], np.float32)}
    train = Examples("train", inputs, labels, weights, np.arange(len(numbers)))
    return Splits(name=str(path), train=train, classes=classes, notes=notes, columns=tuple(features))


def _describe_indexes(path: Path, names: Sequence[str], numbers: np.ndarray) -> Iterator[str]:
    """Yield notes about index columns: by their values, or by name if all values differ."""
    for place, name in enumerate(names):
        values = numbers[:, place]
        counts = len(values) >= _MIN_INDEX_ROWS and bool((np.diff(values) == 1).all()) and values[0] in (0, 1)
        unique = bool((values == np.rint(values)).all()) and len(np.unique(values)) == len(values)
        if counts or (unique and _INDEX.fullmatch(name)):
            yield (
                f"{path}: column {name!r} looks like a row number but is used as an input; "
                f"{format_set_option('data.source.drop', name)} drops it"
            )


class _Csv:
    """A CSV file, read in blocks; rows are named by their line in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[int] = []
        _, header = next(self._read_rows(), (0, []))
        self.columns = [name.strip() for name in header]
        if not header or all(_is_number(name) for name in self.columns):
            raise DataError(f"{path}: the first line must contain column names, got {','.join(header)[:60]!r}")
        if len(header) == 1 and any(sign in header[0] for sign in ";\t|"):
            raise DataError(f"{path}: one column {header[0][:60]!r}; columns must be separated by commas")
        duplicates = [name or "(empty)" for name, count in Counter(self.columns).items() if count > 1]
        if duplicates:
            raise DataError(f"{path}: duplicate column name {duplicates[0]!r}")

    def format_row(self, row: int) -> str:
        """Format a row for messages."""
        return f"line {self.lines[row]}"

    def read(self, names: Sequence[str], label: str | None) -> tuple[np.ndarray, list[str] | None]:
        """Read the numbers of some columns (n, columns) and the texts of the label column."""
        places = [self.columns.index(name) for name in names]
        label_place = None if label is None else self.columns.index(label)
        blocks, texts, block = [], [], []
        rows = self._read_rows()
        next(rows)
        for line, row in rows:
            if len(row) != len(self.columns):
                truncated = len(row) < len(self.columns) and next(rows, None) is None
                raise DataError(
                    f"{self.path}: line {line} has {len(row)} cells, "
                    f"expected {len(self.columns)} as in the header",
                    hint="copy the file again: its last line is truncated" if truncated else None,
                )
            self.lines.append(line)
            block.append([row[place] for place in places])
            if label_place is not None:
                texts.append(row[label_place].strip())
            if len(block) == _ROWS_PER_BLOCK:
                blocks.append(self._parse_numbers(block, names))
                block = []
        blocks.append(self._parse_numbers(block, names))
        return np.concatenate(blocks), texts if label_place is not None else None

    def _parse_numbers(self, block: list[list[str]], names: Sequence[str]) -> np.ndarray:
        try:
            return np.asarray(block, dtype=np.str_).astype(np.float64).reshape(len(block), len(names))
        except ValueError:
            first = len(self.lines) - len(block)
            for number, row in enumerate(block):
                for name, cell in zip(names, row, strict=True):
                    if not _is_number(cell):
                        raise DataError(
                            f"{self.path}: line {self.lines[first + number]}, column {name!r}: "
                            f"{cell[:40]!r} is not a number",
                            hint=f"{format_set_option('data.source.drop', name)} drops the column",
                        ) from None
            lines = f"{self.lines[first]} to {self.lines[-1]}"
            raise DataError(f"{self.path}: lines {lines} contain values that are not numbers") from None

    def _read_rows(self) -> Iterator[tuple[int, list[str]]]:
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                for row in reader:
                    if row:
                        yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 text (byte {error.start:,})") from None
        except csv.Error as error:
            hint = "copy the file again: a quote is not closed" if "end of data" in str(error) else None
            raise DataError(f"{self.path}: line {reader.line_num}: {error}", hint=hint) from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None


class _Parquet:
    """A Parquet file, read as a whole with pyarrow."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise ModelError(
                f"{path}: reading Parquet needs the package pyarrow", hint="pip install pyarrow"
            ) from None
        self.path = path
        try:
            self.table: Any = pyarrow.parquet.read_table(path)
        except (pyarrow.ArrowException, OSError) as error:
            message = f"{path}: not a readable Parquet file: {summarize_error(error):.200}"
            raise DataError(message, hint="copy the file again") from None
        self.columns = list(self.table.column_names)

    def format_row(self, row: int) -> str:
        """Format a row for messages."""
        return f"row {row}"

    def read(self, names: Sequence[str], label: str | None) -> tuple[np.ndarray, list[str] | None]:
        """Read the numbers of some columns (n, columns) and the texts of the label column."""
        numbers = np.empty((self.table.num_rows, len(names)))
        for place, name in enumerate(names):
            numbers[:, place] = self._read_column(name)
        if label is None:
            return numbers, None
        return numbers, ["" if value is None else str(value) for value in self.table.column(label).to_pylist()]

    def _read_column(self, name: str) -> np.ndarray:
        column = self.table.column(name)
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DataError(f"{self.path}: row {row}, column {name!r}: the cell is empty")
        values: np.ndarray = column.to_numpy()
        if values.dtype.kind not in "biuf":
            raise DataError(
                f"{self.path}: column {name!r} contains {column.type}, expected numbers",
                hint=f"{format_set_option('data.source.drop', name)} drops the column",
            )
        return values


def _encode_labels(
    texts: list[str] | None, where: str, table: _Csv | _Parquet
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Encode labels: numbers as they are, texts as classes in string order."""
    if texts is None:
        return None, None
    if "" in texts:
        raise DataError(f"{where}: the cell in {table.format_row(texts.index(''))} is empty")
    is_number = {text: _is_number(text) for text in dict.fromkeys(texts)}
    if all(is_number.values()):
        numbers = np.array(texts, dtype=np.str_).astype(np.float64)
        whole = all(text.lstrip("+-").isdigit() for text in is_number) and abs(numbers).max() < 2**53
        return numbers.astype(np.int64) if whole else numbers, None
    if any(is_number.values()):
        rarer = sum(is_number[text] for text in texts) * 2 < len(texts)
        row = next(row for row, text in enumerate(texts) if is_number[text] == rarer)
        raise DataError(f"{where} mixes numbers and text: {texts[row][:40]!r} in {table.format_row(row)}")
    classes = sorted(is_number)
    numbers_of = {name: number for number, name in enumerate(classes)}
    return np.array([numbers_of[text] for text in texts], np.int64), tuple(classes)


def _check_weights(values: np.ndarray, where: str, table: _Csv | _Parquet) -> np.ndarray:
    wrong = np.flatnonzero(~np.isfinite(values) | (values < 0))
    if len(wrong):
        first = table.format_row(int(wrong[0]))
        raise DataError(f"{where} must contain numbers >= 0; invalid cells: {len(wrong)}, the first in {first}")
    return values.astype(np.float32)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
