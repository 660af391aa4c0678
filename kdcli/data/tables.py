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
# Names of columns that number the rows, and rows from which on 0, 1, 2, ... cannot be chance.
_INDEX = re.compile(r"|(?i:unnamed:.*|index|idx|row|id|.*[_ -]id)|.*[a-z]I[dD]")
_MIN_INDEX_ROWS = 10


def read_table(path: Path, *, label: str | None, weight: str | None, drop: Sequence[str] = ()) -> Splits:
    """A table as one training split, inputs (n, columns) in float32.

    Args:
        path: `.csv` (comma, a header line) or `.parquet`.
        label: name of the label column, None for none. Text becomes classes in string order.
        weight: name of the column of sample weights; a column `weight` when None.
        drop: names of columns that are left out.

    Raises:
        DataError: missing, without a header, a cell that is no number, an unknown column.
        ModelError: Parquet without pyarrow.
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
                hint=f"{guess} names one" + ("; null when there are no labels" if setting == "label" else ""),
            )
    notes: tuple[str, ...] = ()
    if weight is None and _WEIGHT_COLUMN in columns and label != _WEIGHT_COLUMN:
        weight = _WEIGHT_COLUMN
        notes = (f"{path}: the column {_WEIGHT_COLUMN!r} gives the sample weights, it is no input",)
    features = [name for name in columns if name not in (label, weight, *drop)]
    if not features:
        raise DataError(f"{path}: no column is left as input; columns: {', '.join(columns)}")
    numbers, texts = table.read([*features, *([weight] if weight else [])], label)
    if not len(numbers):
        raise DataError(f"{path}: has a header and no rows")
    notes += tuple(_indexes(path, features, numbers))
    labels, classes = _labels(texts, f"{path}: the column {label!r}", table)
    weights = _weights(numbers[:, -1], f"{path}: the column {weight!r}", table) if weight else None
    inputs = {SINGLE_INPUT: np.ascontiguousarray(numbers[:, : len(features)], np.float32)}
    train = Examples("train", inputs, labels, weights, np.arange(len(numbers)))
    return Splits(str(path), train, classes=classes, notes=notes, columns=tuple(features))


def _indexes(path: Path, names: Sequence[str], numbers: np.ndarray) -> Iterator[str]:
    """Sentences about columns that number the rows: by their values, or by name where every value is another."""
    for place, name in enumerate(names):
        values = numbers[:, place]
        counts = len(values) >= _MIN_INDEX_ROWS and bool((np.diff(values) == 1).all()) and values[0] in (0, 1)
        unique = bool((values == np.rint(values)).all()) and len(np.unique(values)) == len(values)
        if counts or (unique and _INDEX.fullmatch(name)):
            yield (
                f"{path}: the column {name!r} seems to number the rows, and it is an input; "
                f"{format_set_option('data.source.drop', name)} leaves it out"
            )


class _Csv:
    """A CSV file, read in blocks; rows are counted as lines of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[int] = []
        _, header = next(self._rows(), (0, []))
        self.columns = [name.strip() for name in header]
        if not header or all(_is_number(name) for name in self.columns):
            raise DataError(f"{path}: its first line must name the columns, got {','.join(header)[:60]!r}")
        if len(header) == 1 and any(sign in header[0] for sign in ";\t|"):
            raise DataError(f"{path}: one column {header[0][:60]!r}; columns must be separated by commas")
        twice = [name or "(empty)" for name, count in Counter(self.columns).items() if count > 1]
        if twice:
            raise DataError(f"{path}: two columns are called {twice[0]!r}")

    def where(self, row: int) -> str:
        """A row, for messages."""
        return f"line {self.lines[row]}"

    def read(self, names: Sequence[str], label: str | None) -> tuple[np.ndarray, list[str] | None]:
        """The numbers of some columns (n, columns) and the texts of the label column."""
        places = [self.columns.index(name) for name in names]
        at = None if label is None else self.columns.index(label)
        blocks, texts, block = [], [], []
        rows = self._rows()
        next(rows)
        for line, row in rows:
            if len(row) != len(self.columns):
                cut_off = len(row) < len(self.columns) and next(rows, None) is None
                raise DataError(
                    f"{self.path}: line {line} has {len(row)} cells, "
                    f"expected {len(self.columns)} as in the header",
                    hint="copy the file again: its last line is cut off" if cut_off else None,
                )
            self.lines.append(line)
            block.append([row[place] for place in places])
            if at is not None:
                texts.append(row[at].strip())
            if len(block) == _ROWS_PER_BLOCK:
                blocks.append(self._numbers(block, names))
                block = []
        blocks.append(self._numbers(block, names))
        return np.concatenate(blocks), texts if at is not None else None

    def _numbers(self, block: list[list[str]], names: Sequence[str]) -> np.ndarray:
        try:
            return np.asarray(block, dtype=np.str_).astype(np.float64).reshape(len(block), len(names))
        except ValueError:
            first = len(self.lines) - len(block)
            for number, row in enumerate(block):
                for name, cell in zip(names, row, strict=True):
                    if not _is_number(cell):
                        raise DataError(
                            f"{self.path}: line {self.lines[first + number]}, column {name!r}: "
                            f"{cell[:40]!r} is no number",
                            hint=f"{format_set_option('data.source.drop', name)} leaves the column out",
                        ) from None
            last = self.lines[-1]
            raise DataError(f"{self.path}: lines {self.lines[first]} to {last} hold what is no number") from None

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                for row in reader:
                    if row:
                        yield reader.line_num, row
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: is no text in UTF-8 (byte {error.start})") from None
        except csv.Error as error:
            hint = "copy the file again: a quote is not closed" if "end of data" in str(error) else None
            raise DataError(f"{self.path}: line {reader.line_num}: {error}", hint=hint) from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None


class _Parquet:
    """A Parquet file, read whole through pyarrow."""

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

    def where(self, row: int) -> str:
        """A row, for messages."""
        return f"row {row}"

    def read(self, names: Sequence[str], label: str | None) -> tuple[np.ndarray, list[str] | None]:
        """The numbers of some columns (n, columns) and the texts of the label column."""
        numbers = np.empty((self.table.num_rows, len(names)))
        for place, name in enumerate(names):
            numbers[:, place] = self._column(name)
        if label is None:
            return numbers, None
        return numbers, ["" if value is None else str(value) for value in self.table.column(label).to_pylist()]

    def _column(self, name: str) -> np.ndarray:
        column = self.table.column(name)
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DataError(f"{self.path}: row {row}, column {name!r}: the cell is empty")
        values = column.to_numpy()
        if values.dtype.kind not in "biuf":
            hint = f"{format_set_option('data.source.drop', name)} leaves it out"
            raise DataError(f"{self.path}: column {name!r} holds {column.type}, expected numbers", hint=hint)
        return values


def _labels(
    texts: list[str] | None, where: str, table: _Csv | _Parquet
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels as numbers, or text as classes in string order."""
    if texts is None:
        return None, None
    if "" in texts:
        raise DataError(f"{where} is empty in {table.where(texts.index(''))}")
    values = {text: _is_number(text) for text in dict.fromkeys(texts)}
    if all(values.values()):
        numbers = np.array(texts, dtype=np.str_).astype(np.float64)
        whole = all(text.lstrip("+-").isdigit() for text in values) and abs(numbers).max() < 2**53
        return numbers.astype(np.int64) if whole else numbers, None
    if any(values.values()):
        rarer = sum(values[text] for text in texts) * 2 < len(texts)
        row = next(row for row, text in enumerate(texts) if values[text] == rarer)
        raise DataError(f"{where} mixes numbers and text: {texts[row][:40]!r} in {table.where(row)}")
    classes = sorted(values)
    numbers_of = {name: number for number, name in enumerate(classes)}
    return np.array([numbers_of[text] for text in texts], np.int64), tuple(classes)


def _weights(values: np.ndarray, where: str, table: _Csv | _Parquet) -> np.ndarray:
    wrong = np.flatnonzero(~np.isfinite(values) | (values < 0))
    if len(wrong):
        raise DataError(
            f"{where} must hold numbers >= 0; {len(wrong)} are not, the first in {table.where(int(wrong[0]))}"
        )
    return values.astype(np.float32)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
