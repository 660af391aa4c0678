"""Everything that a `--code` file needs to define its own losses, sources and augmentations.

Importing this module never imports TensorFlow: `tf`, `keras` and `ops` (`keras.ops`) load at first use.

Example:
    >>> from typing import Literal
    >>> from kdcli.kinds import Loss, ops, per_example, wide
    >>> class Squared(Loss):
    ...     kind: Literal["squared"] = "squared"
    ...
    ...     def __call__(self, *, student, teacher, **_):
    ...         return per_example(ops.square(wide(student) - ops.stop_gradient(wide(teacher))))
"""

from __future__ import annotations

from kdcli.data.examples import Examples, Splits
from kdcli.data.named_arrays import splits_from_arrays
from kdcli.formulas.convention import cosine, features, match_logits, per_example, promote, require_parts, wide
from kdcli.lazy import keras, ops, tf
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Loss, Parts
from kdcli.spec import (
    Augment,
    Change,
    FiniteFloat,
    Fraction,
    PositiveFloat,
    Source,
    Temperature,
    Weight,
    value_at,
)
from kdcli.tensors import Shape, Tensor, Variable

__all__ = [
    "NO_PARTS",
    "Augment",
    "Change",
    "Examples",
    "FeatureLoss",
    "FiniteFloat",
    "Fraction",
    "Given",
    "Loss",
    "Parts",
    "PositiveFloat",
    "Shape",
    "Source",
    "Splits",
    "Temperature",
    "Tensor",
    "Variable",
    "Weight",
    "cosine",
    "features",
    "keras",
    "match_logits",
    "ops",
    "per_example",
    "promote",
    "require_parts",
    "splits_from_arrays",
    "tf",
    "value_at",
    "wide",
]
