"""Neuron selectivity: the student's channels choose positions as the teacher's channels do."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import per_example
from kdcli.formulas.matching import pair_features
from kdcli.formulas.pooling import match_sizes
from kdcli.formulas.rows import flatten_positions, limit_size, normalize_length
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.spec import Weight


class NeuronSelectivity(FeatureLoss):
    """Mean k(t, t) + mean k(s, s) − 2 · mean k(s, t), k(a, b) = (a · b)² over channels as maps of length 1.

    The squared maximum mean discrepancy between the channels of student and teacher with the polynomial kernel.
    The larger map is averaged down to the smaller; pairs of layers are summed.

    Shapes: student, teacher (batch, ..., channels), with any numbers of channels → (batch,).

    Example:
        >>> import kdcli
        >>> loss = kdcli.losses.make("neuron_selectivity")
        >>> float(loss(student=[[[1.0], [0.0]]], teacher=[[[0.0], [2.0]]])[0])
        2.0
    """

    known_as: ClassVar[str] = "NST, MMD"
    paper: ClassVar[str] = "Huang & Wang 2017, arXiv:1707.01219"
    axes: ClassVar[tuple[int, ...]] = (3, 2)
    pairing: ClassVar[Literal["last", "several"]] = "several"
    family: ClassVar[bool] = True

    kind: Literal["neuron_selectivity"] = "neuron_selectivity"
    weight: Weight = 50.0

    def __call__(self, *, student: Any, teacher: Any, **_: Any) -> Any:
        """The discrepancy, per example."""
        total = 0.0
        for feature, target in pair_features(student, teacher):
            feature, target = match_sizes(feature, ops.stop_gradient(target))
            ours, theirs = _channels(feature), _channels(target)
            total = total + _kernel(theirs, theirs) + _kernel(ours, ours) - 2.0 * _kernel(ours, theirs)
        return total


def _channels(feature: Any) -> Any:
    """(batch, positions, channels), each channel of length 1 over the positions."""
    return normalize_length(limit_size(flatten_positions(feature), (1,)), axis=1)


def _kernel(first: Any, second: Any) -> Any:
    """Mean over all pairs of channels of the squared product, per example."""
    return per_example(ops.square(ops.einsum("bpi,bpj->bij", first, second)))
