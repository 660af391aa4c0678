"""Tables of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdcli.sources.setting_types import ColumnNames
from kdcli.spec import Source

if TYPE_CHECKING:
    from kdcli.data.examples import Splits


class Table(Source):
    """A `.csv` file (commas, a header line) or a `.parquet` file: columns of numbers and a label column.

    All rows are for training; `{train: a.csv, test: b.csv}` defines splits. Parquet needs the package pyarrow.

    Args:
        path: the file, relative to the current folder.
        label: the label column; texts become classes in string order. `null` means no labels.
        weight: the column with sample weights; by default the column `weight`, if there is one.
        drop: columns to ignore, such as row numbers: a name, or a list of names.
    """

    kind: Literal["table"] = "table"
    path: str
    label: str | None = "label"
    weight: str | None = None
    drop: ColumnNames = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The file."""
        return (self.path,)

    def load(self) -> Splits:
        """Read the rows as one training split."""
        from kdcli.data.tables import read_table

        drop = (self.drop,) if isinstance(self.drop, str) else self.drop
        return read_table(Path(self.path), label=self.label, weight=self.weight, drop=drop)
