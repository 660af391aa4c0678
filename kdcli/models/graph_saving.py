"""A trained graph written again as a SavedModel that anybody's TensorFlow opens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcli.lazy import tf
from kdcli.models.graph_freezing import GraphTensor
from kdcli.models.graph_function import GraphFunction


def save_function(
    function: GraphFunction, folder: Path, *, signature: str, outputs: Sequence[GraphTensor]
) -> None:
    """Write a graph with its weights as variables.

    Args:
        function: the graph; its weights are read now.
        folder: made, and filled as TensorFlow does; whoever wants it whole or not at all writes to scratch first.
        signature: its name.
        outputs: results by name.
    """
    module = tf.Module()
    module.weights = [
        tf.Variable(
            weight.variable.numpy(),
            dtype=weight.variable.dtype,
            trainable=weight.variable.trainable,
            name=weight.name,
        )
        for weight in function.weights
    ]
    names = [_argument(feed.name) for feed in function.feeds]

    def serve(**inputs: Any) -> dict[str, Any]:
        given = [inputs[name] for name in names]
        weights = [variable.read_value() for variable in module.weights]
        answered = function.with_weights(given, weights, [output.tensor for output in outputs])
        return {output.name: tensor for output, tensor in zip(outputs, answered, strict=True)}

    specs = {
        name: tf.TensorSpec(feed.shape, feed.dtype, name=name)
        for name, feed in zip(names, function.feeds, strict=True)
    }
    serving = tf.function(serve, autograph=False).get_concrete_function(**specs)
    tf.saved_model.save(module, folder, signatures={signature: serving})


def _argument(name: str) -> str:
    """A name that an argument may have; a tensor's has slashes and a colon."""
    return name if name.isidentifier() else re.sub(r"\W", "_", f"at_{name}")
