"""Neuron selectivity: the student's channels select positions as the teacher's channels do."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from kdcli.formulas.convention import per_example
from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.map_sizes import match_sizes
from kdcli.formulas.vectors import flatten_positions, limit_size, normalize_length
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.spec import Weight
from kdcli.tensors import Tensor


class NeuronSelectivity(FeatureLoss):
    """Mean k(t, t) + mean k(s, s) − 2 · mean k(s, t), k(a, b) = (a · b)² over channels as maps of length 1.

    The squared maximum mean discrepancy between the channels of student and teacher with a polynomial kernel. The
    larger map is averaged down to the size of the smaller; pairs of layers are summed.

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

    def __call__(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        """Return the discrepancy per example."""
        total = 0.0
        for feature, target in pair_features(student, teacher):
            feature, target = match_sizes(feature, ops.stop_gradient(target))
            ours, theirs = _channels(feature), _channels(target)
            total = total + _kernel(theirs, theirs) + _kernel(ours, ours) - 2.0 * _kernel(ours, theirs)
        return total


def _channels(feature: Tensor) -> Tensor:
    """Channels (batch, positions, channels), each of length 1 over the positions."""
    return normalize_length(limit_size(flatten_positions(feature), (1,)), axis=1)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    """The mean of the squared products over all pairs of channels, per example."""
    return per_example(ops.square(ops.einsum("bpi,bpj->bij", first, second)))
