"""Importance: how much each channel contributes, by one of seven criteria."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from kdcli.errors import UsageError
from kdcli.lazy import keras, ops, tf
from kdcli.models.keras.layers import wrap_calls
from kdcli.shrinking.channels import Binding, Reader, TracedChannels
from kdcli.shrinking.groups import Group
from kdcli.tensors import Batches, Tensor
from kdcli.zoo.shrunk import MEASURED_IMPORTANCES, Importance

# From the outputs and the number of a batch to a scalar.
Target: TypeAlias = Callable[[Sequence[Tensor], Tensor], Tensor]
# A vector of slots and a score for each of them.
Scores: TypeAlias = list[tuple[np.ndarray, np.ndarray]]


def rank_channels(
    channels: TracedChannels,
    groups: Sequence[Group],
    *,
    criterion: Importance = "activation",
    batches: Batches | None = None,
    kind: str = "logits",
    output: int = 0,
    seed: int = 0,
) -> list[np.ndarray]:
    """Compute the importance of the channels of each group.

    Scores are divided by their mean in each layer, so that layers can be compared, and summed over the layers that
    share the channels.

    Args:
        channels: of the model.
        groups: from `find_groups`.
        criterion: `activation`: L2 norm over examples of the mean absolute activation at readers (Muralidharan
            et al. 2024, arXiv:2407.14679). `taylor`: sum over examples of (Σ w ∂ log p(c) / ∂w)², with a class c
            drawn from the model's own output (Molchanov et al. 2019, arXiv:1906.10771). `bn_scale`: |γ| of batch
            normalization (Liu et al. 2017, arXiv:1708.06519). `l1`, `l2`: norm of the weights that make it
            (Li et al. 2016, arXiv:1608.08710). `fpgm`: distance to the layer's other filters (He et al. 2018,
            arXiv:1811.00250). `random`: a control.
        batches: examples, for `activation` and `taylor`; neither needs labels.
        kind: output kind: `logits`, `probabilities`, `sigmoid` or `values`, for `taylor`.
        output: index of the output, for `taylor`.
        seed: RNG seed for `taylor` and `random`.

    Returns:
        One array (channels,) for each group.
    """
    if criterion == "random":
        generator = np.random.default_rng(seed)
        return [generator.random(len(group.roots)) for group in groups]
    if criterion in MEASURED_IMPORTANCES:
        assert batches is not None, f"{criterion} needs examples"
        target = partial(_choose_target, kind=kind, output=output, seed=seed) if criterion == "taylor" else None
        scores = _measure(channels, batches, target=target)
    else:
        scores = list(_score_weights(channels, criterion))
    totals = _sum_scores(channels, scores)
    missing = [group for group in groups if not totals.keys() & set(group.roots.tolist())]
    if missing and criterion != "l2":
        # A layer without that kind of weight, or whose channels no layer reads directly.
        totals = _sum_scores(channels, list(_score_weights(channels, "l2"))) | totals
    return [np.array([totals.get(root, 0.0) for root in group.roots.tolist()]) for group in groups]


def _sum_scores(channels: TracedChannels, scores: Scores) -> dict[int, float]:
    """The sum of the normalized scores of each representative."""
    totals: dict[int, float] = {}
    for vector, values in scores:
        mean = float(np.mean(values))
        if not np.isfinite(mean) or mean <= 0:
            continue
        for root, value in zip(channels.slots.find(vector).tolist(), (values / mean).tolist(), strict=True):
            totals[root] = totals.get(root, 0.0) + value
    return totals


def _score_weights(channels: TracedChannels, criterion: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for binding in channels.bindings.values():
        weights = np.moveaxis(np.asarray(binding.variable.numpy(), float), binding.axis, 0)
        rows = weights.reshape(len(weights), -1)
        if criterion == "bn_scale":
            if _is_scale(binding):
                yield binding.vector, np.abs(rows[:, 0])
        elif binding.role == "makes":
            yield binding.vector, _SCORES[criterion](rows)


def _is_scale(binding: Binding) -> bool:
    return binding.role == "follows" and binding.variable.name == "gamma"


def _distance_to_others(rows: np.ndarray) -> np.ndarray:
    squares = np.sum(rows**2, axis=1)
    products = squares[:, None] + squares[None] - 2 * rows @ rows.T
    return np.sqrt(np.maximum(products, 0)).sum(axis=1)


_SCORES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "l1": lambda rows: np.abs(rows).sum(axis=1),
    "l2": lambda rows: np.sqrt((rows**2).sum(axis=1)),
    "fpgm": _distance_to_others,
}


def _measure(channels: TracedChannels, batches: Batches, *, target: Target | None) -> Scores:
    """Run the model on examples, and score the inputs of the layers that read channels.

    Args:
        channels: of the model.
        batches: examples.
        target: makes the scalar whose gradients count; None to measure activations.

    Raises:
        UsageError: the gradient is 0 everywhere.
    """
    model, readers = channels.model, _merge_readers(channels.readers)
    sums = [np.zeros(len(reader.vector)) for reader in readers]

    def compute(inputs: Any, number: Tensor) -> list[Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape, _tap_readers(readers, tape) as seen:
            outputs = keras.tree.flatten(model(inputs, training=False))
            scalar = target(outputs, number) if target is not None else None
        gradients = tape.gradient(scalar, [seen[at] for at in range(len(readers))]) if target else None
        results = []
        for at, reader in enumerate(readers):
            value = ops.cast(seen[at], "float32")
            if gradients is None:
                results.append(ops.sum(_reduce(ops.abs(value), reader, ops.mean) ** 2, axis=0))
            elif gradients[at] is None:
                results.append(ops.zeros((len(reader.vector),)))
            else:
                change = _reduce(value * ops.cast(gradients[at], "float32"), reader, ops.sum)
                results.append(ops.sum(change**2, axis=0))
        return results

    function = tf.function(compute, autograph=False, reduce_retracing=True)
    for number, batch in enumerate(batches()):
        for total, one in zip(sums, function(batch, tf.constant(number)), strict=True):
            total += np.asarray(one, float)
    if target is not None and readers and not any(total.any() for total in sums):
        raise UsageError(
            "importance taylor: the outputs do not depend on any channel", hint="--importance activation"
        )
    return [
        (reader.vector, total if target else np.sqrt(total)) for reader, total in zip(readers, sums, strict=True)
    ]


def _merge_readers(readers: Sequence[Reader]) -> list[Reader]:
    """Each argument of each layer once; a layer that is called several times counts by its last call."""
    return list({(id(reader.layer), reader.position): reader for reader in readers}.values())


def _reduce(value: Tensor, reader: Reader, mean: Callable[..., Tensor]) -> Tensor:
    """(batch, channels): a mean or a sum over all other axes."""
    rank = len(value.shape)
    others = [axis for axis in range(1, rank) if axis != reader.axis % rank]
    return mean(value, axis=others) if others else value


def _choose_target(outputs: Sequence[Tensor], number: Tensor, *, kind: str, output: int, seed: int) -> Tensor:
    """A scalar whose gradient for each example is that of one random outcome of the model's own output."""
    values = ops.cast(outputs[output], "float32")
    if kind == "logits" and values.shape[-1] == 1:
        # A single logit is that of a sigmoid.
        kind, values = "sigmoid", ops.sigmoid(values)
    state = tf.stack([tf.constant(seed, tf.int32), number])
    if kind == "values":
        signs = 2.0 * tf.cast(tf.random.stateless_uniform(tf.shape(values), state) < 0.5, "float32") - 1.0
        return ops.sum(signs * values)
    if kind == "sigmoid":
        drawn = ops.cast(
            tf.random.stateless_uniform(tf.shape(values), state) < ops.stop_gradient(values), "float32"
        )
        clipped = ops.clip(values, 1e-7, 1 - 1e-7)
        return ops.sum(drawn * ops.log(clipped) + (1 - drawn) * ops.log(1 - clipped))
    logs = ops.log(ops.clip(values, 1e-7, 1.0)) if kind == "probabilities" else ops.log_softmax(values, axis=-1)
    flat = ops.reshape(logs, (-1, logs.shape[-1]))
    drawn = tf.random.stateless_categorical(ops.stop_gradient(flat), 1, state)[:, 0]
    return ops.sum(ops.take_along_axis(flat, drawn[:, None], axis=-1))


@contextmanager
def _tap_readers(readers: Sequence[Reader], tape: Any) -> Iterator[dict[int, Tensor]]:
    """Record what each reader receives, as a tensor of its own, whose gradient is that of this reader alone."""
    seen: dict[int, Tensor] = {}
    layers = list({id(reader.layer): reader.layer for reader in readers}.values())

    def wrap(number: int, original: Any) -> Any:
        numbers = [at for at, reader in enumerate(readers) if reader.layer is layers[number]]

        def call(*args: Any, **kwargs: Any) -> Any:
            values, named = list(args), dict(kwargs)
            for at in numbers:
                position = readers[at].position
                if position < len(values):
                    values[position] = seen[at] = tf.identity(values[position])
                else:
                    # The only input, by name.
                    name = next(iter(named))
                    named[name] = seen[at] = tf.identity(named[name])
                tape.watch(seen[at])
            return original(*values, **named)

        return call

    with wrap_calls(layers, wrap):
        yield seen
