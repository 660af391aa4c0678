"""The small data sets that Keras downloads by name."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdcli.errors import DataError
from kdcli.lazy import keras
from kdcli.spec import Source

if TYPE_CHECKING:
    from kdcli.data.examples import Splits

# Number of classes of each data set.
DATASETS = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100}


class KerasDataset(Source):
    """A data set of `keras.datasets`, downloaded once and cached where Keras caches (`~/.keras/datasets`).

    Args:
        name: `mnist`, `fashion_mnist`, `cifar10` or `cifar100`.
    """

    kind: Literal["keras"] = "keras"
    name: Literal["mnist", "fashion_mnist", "cifar10", "cifar100"]

    def load(self) -> Splits:
        """Read the training and test split of Keras.

        Raises:
            DataError: the download failed, or `KD_OFFLINE` forbids it.
        """
        from kdcli.data.named_arrays import splits_from_arrays

        (x_train, y_train), (x_test, y_test) = self._read()
        arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
        return splits_from_arrays(arrays, name=self.name, classes=DATASETS[self.name])

    def _read(self) -> tuple[Any, Any]:
        hint = f"pass the data as a file: --data {self.name}.npz (x_train, y_train, x_test, y_test)"
        if os.environ.get("KD_OFFLINE") and not self._is_cached():
            raise DataError(f"{self.name}: not cached, and KD_OFFLINE forbids the download", hint=hint)
        try:
            # Keras prints its progress to stdout, which is reserved for the result.
            with contextlib.redirect_stdout(sys.stderr):
                return getattr(keras.datasets, self.name).load_data()
        # Keras raises a bare Exception for a failed download, and OSError or EOFError for a damaged cache.
        except Exception as error:
            raise DataError(f"{self.name}: cannot be read: {error}", hint=hint) from error

    def _is_cached(self) -> bool:
        folder = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets"
        prefix = self.name.replace("_", "-").replace("cifar", "cifar-")
        known = (f"{prefix}.npz", prefix, f"{prefix}-batches-py", f"{prefix}-python")
        return folder.is_dir() and any(
            entry.name in known or entry.name.startswith(known[2:]) for entry in folder.iterdir()
        )
