"""The embedded data set: 1,797 real handwritten digits of 8×8 pixels."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Literal

from kdcli.spec import Source

if TYPE_CHECKING:
    from kdcli.data.examples import Splits


class Digits(Source):
    """Real 8×8 digits inside the package, the offline default: 1,437 training and 360 test examples.

    From "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning
    Repository, doi:10.24432/C50P49, CC BY 4.0, in the selection distributed by scikit-learn. The grey levels 0-16
    are scaled to 0-255. `benchmarks/make_digits.py` writes the file.
    """

    kind: Literal["digits"] = "digits"

    def load(self) -> Splits:
        """Read both splits, with images (8, 8, 1) in uint8."""
        from kdcli.data.named_arrays import read_npz

        with resources.as_file(resources.files("kdcli.sources") / "digits.npz") as path:
            return read_npz(path, name="digits", classes=tuple("0123456789"))
