"""Taps: inner tensors by name, with one mechanism for functional, nested and subclassed Keras models.

While a model is traced, the `call` of each layer instance is wrapped to record what it returns. A tap has the
layer's path as its name (`block/convolution`); a layer called twice has taps `name:0` and `name:1`. Attention
scores, after the softmax, are `attention/scores`.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kdcli.lazy import keras
from kdcli.tensors import KerasModel, Tensor

_Call = tuple[str, int]
_SCORES = "scores"


@dataclass
class CallRecord:
    """The calls of layers while a model was called.

    Args:
        layers: layer path → layer.
        outputs: (layer path, number of the call) → what the layer returned, in the order in which calls ended.
        inputs: (layer path, number of the call) → the first argument of the call.
        counts: layer path → number of calls.
    """

    layers: Mapping[str, Any]
    outputs: dict[_Call, Tensor] = field(default_factory=dict)
    inputs: dict[_Call, Tensor] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, path: str, output: Tensor, first: Tensor) -> None:
        """Add a call: what the layer returned, and its first argument."""
        self.outputs[path, self.counts[path]] = output
        self.inputs[path, self.counts[path]] = first
        self.counts[path] += 1

    def names(self) -> dict[str, _Call]:
        """Tap name → call, for each call that returned one tensor."""
        return {
            path if self.counts[path] == 1 else f"{path}:{number}": (path, number)
            for path, number in self.outputs
            if hasattr(self.outputs[path, number], "shape")
        }

    def sources(self) -> dict[_Call, _Call]:
        """Call → the call whose output it returned unchanged, or else took as its first argument."""
        first_calls: dict[int, _Call] = {}
        for call, output in self.outputs.items():
            first_calls.setdefault(id(output), call)
        found: dict[_Call, _Call] = {}
        for call, output in self.outputs.items():
            first = first_calls[id(output)]
            source = first if first != call else first_calls.get(id(self.inputs[call]))
            if source is not None and source != call:
                found[call] = source
        return found

    def last(self, output: Tensor) -> _Call | None:
        """The innermost call that returned a tensor, such as the model's output."""
        return next((call for call, tensor in self.outputs.items() if tensor is output), None)


def find_layers(model: KerasModel) -> dict[str, Any]:
    """Find every layer inside a model, by path; a layer reached twice has its first path."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def walk(parent: Any, prefix: str) -> None:
        for layer in _get_children(parent):
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            path = f"{prefix}{_choose_name(layer, parent)}"
            found[path] = layer
            walk(layer, f"{path}/")

    walk(model, "")
    return found


def _choose_name(layer: Any, parent: Any) -> str:
    """The layer's name; fixed inside attention, where Keras numbers names differently in each process."""
    if _is_attention(parent) and isinstance(layer, keras.layers.Softmax):
        return _SCORES
    if _is_attention(parent) and isinstance(layer, keras.layers.Dropout):
        return "dropout"
    return str(layer.name)


def _is_attention(layer: Any) -> bool:
    return isinstance(layer, keras.layers.MultiHeadAttention | keras.layers.GroupQueryAttention)


def _get_children(parent: Any) -> list[Any]:
    if isinstance(parent, keras.Model):
        return list(parent.layers)
    children: list[Any] = []
    for value in vars(parent).values():
        items = value if isinstance(value, list | tuple) else [value]
        children.extend(item for item in items if isinstance(item, keras.Layer))
    return children


@contextmanager
def record_calls(
    layers: Mapping[str, Any], *, bare: str | None = None, taps: Collection[str] | None = None
) -> Iterator[CallRecord]:
    """Record the calls of layers during the block.

    Args:
        layers: layer path → layer.
        bare: path of a last layer that skips its softmax or sigmoid, so that the output is logits.
        taps: paths of the layers whose outputs are needed; None for all. Attention computes scores for them only.
    """
    recorded = CallRecord(layers)
    try:
        for path, layer in layers.items():
            # Set in the instance's dictionary, so that Keras does not track the attribute.
            scores = _is_attention(layer) and (taps is None or f"{path}/{_SCORES}" in taps)
            original = _return_scores(layer.call) if scores else layer.call
            skip = path == bare and _is_softmax(layer)
            vars(layer)["call"] = _record_call(path, original, recorded, skip=skip)
        with _skip_activation(layers.get(bare) if bare else None):
            yield recorded
    finally:
        for layer in layers.values():
            vars(layer).pop("call", None)


def _return_scores(original: Any) -> Any:
    """Make an attention layer compute its scores, which it skips without dropout, and return only its output."""
    option = "return_attention_scores"
    signature = inspect.signature(original)

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        if option not in signature.parameters or bound.arguments.get(option):
            return original(*args, **kwargs)
        bound.arguments[option] = True
        return original(*bound.args, **bound.kwargs)[0]

    return call


def _record_call(path: str, original: Any, recorded: CallRecord, *, skip: bool) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        output = args[0] if skip else original(*args, **kwargs)
        recorded.add(path, output, args[0] if args else None)
        return output

    return call


@contextmanager
def _skip_activation(layer: Any) -> Iterator[None]:
    activation = vars(layer).get("activation") if layer is not None else None
    if activation is None:
        yield
        return
    vars(layer)["activation"] = keras.activations.linear
    try:
        yield
    finally:
        vars(layer)["activation"] = activation


def _is_softmax(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Softmax)


def get_activation_name(layer: Any) -> str | None:
    """The layer's activation: `softmax`, `sigmoid`, `tanh` or `linear`; None where it is another or unknown."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax" if layer.axis in (-1,) else None
    activation = vars(layer).get("activation")
    for name in ("softmax", "sigmoid", "tanh", "linear"):
        if activation is getattr(keras.activations, name):
            return name
    return None
