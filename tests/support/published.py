"""Reference values of published losses: one case at a time, compared in value and gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "fixtures/losses"
# dtype: (relative error of the loss, error of the gradient relative to its largest entry).
TOLERANCE = {"float64": (1e-8, 1e-6), "float32": (2e-5, 1e-4)}
# The errors of all compared cases, for the table of benchmarks/catalogue.py.
FOUND: list[dict] = []


class Case:
    """One case of a fixture file, in one dtype.

    Args:
        file: name of the `.npz`.
        number: number of the case.
        dtype: float type of the computation.
        kind: kind of the compared loss.
    """

    def __init__(self, file: str, number: int, dtype: str, kind: str) -> None:
        with np.load(FOLDER / f"{file}.npz") as arrays:
            prefix = f"c{number}_"
            self.arrays = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        self.name, self.dtype, self.kind = f"{file} c{number}", dtype, kind

    def __getitem__(self, name: str):
        """An array as a tensor: labels and masks as they are, feature maps with the channels last."""
        import tensorflow as tf

        array = self.arrays.get(f"{name}_nhwc", self.arrays[name])
        return tf.constant(array, self.dtype if array.dtype.kind == "f" else array.dtype)

    def several(self, side: str) -> list:
        """`student0`, `student1`, ... as tensors."""
        count = sum(name.removeprefix(side).isdigit() for name in self.arrays if name.startswith(side))
        return [self[f"{side}{number}"] for number in range(count)]

    def hyper(self, name: str) -> float:
        return float(self.arrays[f"hp_{name}"])

    def weight(self, name: str) -> np.ndarray:
        """Weights in the layout of Keras."""
        forms = (name + form for form in ("_hwio", "_kernel", ""))
        return next(self.arrays[form] for form in forms if form in self.arrays)

    def gradient(self, name: str) -> np.ndarray:
        for form in ("_nhwc", "_hwio", "_kernel", ""):
            if f"grad_{name}{form}" in self.arrays:
                return self.arrays[f"grad_{name}{form}"]
        raise KeyError(name)

    def load(self, **weights) -> None:
        """Assign the case's weights to variables; a dense kernel takes that of a 1×1 convolution."""
        for name, variable in weights.items():
            variable.assign(self.weight(name).reshape(variable.shape))

    def check(self, formula, *, inputs=("student",), absolute=None, tolerance=None, **weights) -> None:
        """Compare `formula(*inputs)`, the gradients of its inputs and those of named layer weights.

        Args:
            formula: returns the scalar that the case stores as `loss`.
            inputs: names of the student's tensors.
            absolute: largest absolute error, for cases whose gradient is near 0.
            tolerance: (loss, gradient) where INDEX.md states a wider one than usual for this type.
            weights: variables by their names in the case; they are loaded first.
        """
        import tensorflow as tf

        self.load(**weights)
        watched = {name: self[name] for name in inputs}
        with tf.GradientTape() as tape:
            tape.watch(list(watched.values()))
            value = formula(*watched.values())
        watched |= {name: variable.value for name, variable in weights.items()}
        gradients = tape.gradient(value, list(watched.values()), unconnected_gradients="zero")
        found = dict(zip(watched, gradients, strict=True))
        loss_error, gradient_error = tolerance or TOLERANCE[self.dtype]
        assert value.dtype == self.dtype
        expected = float(self.arrays["loss"])
        assert float(value) == pytest.approx(expected, rel=loss_error, abs=absolute or 0)
        largest = max(np.abs(self.gradient(name)).max() for name in watched)
        worst = 0.0
        for name, gradient in found.items():
            wanted = self.gradient(name).reshape(gradient.shape)
            # The gradient of a bias before batch normalisation is rounding only, so the case's own size is used.
            own = np.abs(wanted).max()
            scale = own if own > 1e-9 * largest else largest
            bound = absolute if absolute is not None else gradient_error * scale
            np.testing.assert_allclose(gradient, wanted, rtol=0, atol=bound, err_msg=name)
            if scale > 0 and absolute is None:
                worst = max(worst, float(np.abs(np.asarray(gradient) - wanted).max() / scale))
        error = abs(float(value) - expected) / max(abs(expected), 1e-30) if absolute is None else 0.0
        FOUND.append(
            {"kind": self.kind, "case": self.name, "dtype": self.dtype, "value": error, "gradient": worst}
        )


def mean(loss, **given):
    """The mean of the loss over a batch."""
    import tensorflow as tf

    return tf.reduce_mean(loss(**given))
