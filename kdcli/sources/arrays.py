"""Arrays in a NumPy file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdcli.spec import Source

if TYPE_CHECKING:
    from kdcli.data.examples import Splits


class Arrays(Source):
    """A `.npz` file with `x_train y_train x_test y_test`, or `x y`.

    Also read: `x_validation y_validation`, `weight_train`, and several inputs as `x_train.NAME`. Pickled
    objects are refused.

    Args:
        path: the file, relative to the current folder.
    """

    kind: Literal["arrays"] = "arrays"
    path: str

    @property
    def paths(self) -> tuple[str, ...]:
        """The file."""
        return (self.path,)

    def load(self) -> Splits:
        """Read the splits in the file."""
        from kdcli.data.named_arrays import read_npz

        return read_npz(Path(self.path), name=self.path)
