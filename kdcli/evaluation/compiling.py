"""A network as one compiled function of a fixed shape: what is timed, and what is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcli.lazy import ops, tf
from kdcli.models.network import Network
from kdcli.models.preprocessing import Preparation


def compiled(network: Network, *, batch: int) -> Any:
    """The concrete function from prepared inputs, in the order of `preparations`, to the model's own output."""
    identity = {name: _as_it_is(one) for name, one in network.preparations.items()}
    bare = network.with_preparations(identity)

    def answer(*tensors: Any) -> Any:
        return bare.output(dict(zip(identity, tensors, strict=True)))

    specs = [tf.TensorSpec((batch, *one.prepared_shape), one.dtype) for one in identity.values()]
    return tf.function(answer, autograph=False).get_concrete_function(*specs)


def prepared(preparations: Mapping[str, Preparation], raw: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
    """Raw examples as a network takes them, in the order of its preparations."""
    return [ops.convert_to_numpy(one(raw[name])) for name, one in preparations.items()]


def _as_it_is(one: Preparation) -> Preparation:
    """The preparation of what is prepared already: nothing is done to it."""
    return Preparation(one.prepared_shape, one.dtype, one.shape, one.dtype, scale="raw")
