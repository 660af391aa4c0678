"""Instance graph: the examples of a batch as a graph, compared by its vertices, edges and their change."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, model_validator

from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.vectors import centred_products, flatten_examples, limit_size, squared_distances
from kdcli.lazy import ops
from kdcli.loss import FeatureLoss
from kdcli.tensors import Tensor


class InstanceGraph(FeatureLoss):
    """`vertex` · (V(student) − V(teacher))² + `edge` · (A(s) − A(t))² + `transform` · (E(s) − E(t))², means.

    V are the features of a layer; A the squared distances of all pairs of examples, divided by the largest; E = (A
    − A of the next layer)². Layers are summed, and so are the transforms of consecutive layers. Vertices are
    compared in the layers where both features have the same shape: a student of different widths learns only edges
    and transforms.

    Shapes: lists of at least two features (batch, ...), of any sizes → a scalar.

    Args:
        vertex: weight of the vertices within the loss; 0 omits them.
        edge: weight of the edges within the loss; 0 omits them.
        transform: weight of the change of the edges between layers; 0 omits it.

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("instance_graph", vertex=0.0).edge
        1.0
    """

    known_as: ClassVar[str] = "IRG, graph distillation"
    paper: ClassVar[str] = "Liu et al. 2019, CVPR 2019"
    whole_batch: ClassVar[bool] = True
    least_batch: ClassVar[int] = 3
    pairing: ClassVar[Literal["last", "several"]] = "several"
    least_pairs: ClassVar[int] = 2
    shape_text: ClassVar[str] = "student, teacher lists of (batch, ...) → a scalar"

    kind: Literal["instance_graph"] = "instance_graph"
    vertex: NonNegativeFloat = 1.0
    edge: NonNegativeFloat = 1.0
    transform: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _check_weights(self) -> InstanceGraph:
        if self.edge == 0 and self.transform == 0:
            raise ValueError("edge and transform are both 0: use kind: hint, which compares vertices only")
        return self

    def __call__(self, *, student: Tensor, teacher: Tensor, **_: Any) -> Tensor:
        """Return the distance of the graphs of a batch."""
        total, graphs = 0.0, []
        for feature, target in pair_features(student, teacher, least=self.least_pairs):
            target = ops.stop_gradient(target)
            if self.vertex and tuple(feature.shape[1:]) == tuple(target.shape[1:]):
                total = total + self.vertex * ops.mean(ops.square(feature - target))
            graphs.append((_edges(feature), _edges(target)))
            total = total + self.edge * ops.mean(ops.square(graphs[-1][0] - graphs[-1][1]))
        for (ours, theirs), (our_next, their_next) in pairwise(graphs):
            difference = ops.square(ours - our_next) - ops.square(theirs - their_next)
            total = total + self.transform * ops.mean(ops.square(difference))
        return total


def _edges(feature: Tensor) -> Tensor:
    """Squared distances (batch, batch), divided by the largest; all 0 if all examples are equal."""
    squared = squared_distances(centred_products(limit_size(flatten_examples(feature))))
    largest = ops.max(squared)
    return squared / ops.where(largest > 0, largest, ops.ones_like(largest))
