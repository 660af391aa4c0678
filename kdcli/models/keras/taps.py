"""Inner tensors by name: one mechanism for functional, nested and subclassed Keras models.

While a model is traced, the `call` of each layer instance is wrapped to keep what it returns, and put back
afterwards. A tap is the layer's path (`block/convolution`); a layer called twice gives `name:0`, `name:1`. Where
each token of a sequence attends to is `attention/scores`, after the softmax.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kdcli.lazy import keras

_Call = tuple[str, int]
_SCORES = "scores"


@dataclass
class CallRecord:
    """What the layers returned while a model was called.

    Args:
        outputs: (layer path, number of the call) → tensor, in the order in which the calls ended.
        inputs: the same → the first argument of the call.
        layers: layer path → layer.
    """

    layers: Mapping[str, Any]
    outputs: dict[_Call, Any] = field(default_factory=dict)
    inputs: dict[_Call, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def keep(self, path: str, output: Any, given: Any) -> None:
        """Keep the output of one call, and what it was given."""
        self.outputs[path, self.counts[path]] = output
        self.inputs[path, self.counts[path]] = given
        self.counts[path] += 1

    def names(self) -> dict[str, _Call]:
        """Tap name → call, for every call that returned one tensor."""
        return {
            path if self.counts[path] == 1 else f"{path}:{number}": (path, number)
            for path, number in self.outputs
            if hasattr(self.outputs[path, number], "shape")
        }

    def sources(self) -> dict[_Call, _Call]:
        """Call → the call whose result it passed on, or else was given as its first argument, as it is."""
        made: dict[int, _Call] = {}
        for call, output in self.outputs.items():
            made.setdefault(id(output), call)
        found: dict[_Call, _Call] = {}
        for call, output in self.outputs.items():
            first = made[id(output)]
            source = first if first != call else made.get(id(self.inputs[call]))
            if source is not None and source != call:
                found[call] = source
        return found

    def last(self, output: Any) -> _Call | None:
        """The innermost call whose result is a tensor: the model's own output, say."""
        return next((call for call, kept in self.outputs.items() if kept is output), None)


def find_layers(model: Any) -> dict[str, Any]:
    """Every layer inside a model by its path; a layer reached twice keeps its first path."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def walk(parent: Any, prefix: str) -> None:
        for layer in _inside(parent):
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            path = f"{prefix}{_name(layer, parent)}"
            found[path] = layer
            walk(layer, f"{path}/")

    walk(model, "")
    return found


def _name(layer: Any, parent: Any) -> str:
    """Its name; what attention makes inside itself is numbered anew in every process, and needs one that stays."""
    if _attends(parent) and isinstance(layer, keras.layers.Softmax):
        return _SCORES
    if _attends(parent) and isinstance(layer, keras.layers.Dropout):
        return "dropout"
    return str(layer.name)


def _attends(layer: Any) -> bool:
    return isinstance(layer, keras.layers.MultiHeadAttention | keras.layers.GroupQueryAttention)


def _inside(parent: Any) -> list[Any]:
    if isinstance(parent, keras.Model):
        return list(parent.layers)
    held: list[Any] = []
    for value in vars(parent).values():
        items = value if isinstance(value, list | tuple) else [value]
        held.extend(item for item in items if isinstance(item, keras.Layer))
    return held


@contextmanager
def record_calls(
    layers: Mapping[str, Any], *, bare: str | None = None, taps: Collection[str] | None = None
) -> Iterator[CallRecord]:
    """Record the output of each layer while the block runs.

    Args:
        layers: layer path → layer.
        bare: the path of a last layer that shall leave its softmax or sigmoid out, so that logits come out.
        taps: layer paths that are wanted; all when left out. Attention computes its scores only for them.
    """
    recorded = CallRecord(layers)
    try:
        for path, layer in layers.items():
            # Straight into the instance's dictionary: Keras' own attribute tracking must not see this.
            scores = _attends(layer) and (taps is None or f"{path}/{_SCORES}" in taps)
            original = _scoring(layer.call) if scores else layer.call
            skip = path == bare and _is_softmax(layer)
            vars(layer)["call"] = _keeping(path, original, recorded, skip=skip)
        with _without_activation(layers.get(bare) if bare else None):
            yield recorded
    finally:
        for layer in layers.values():
            vars(layer).pop("call", None)


def _scoring(original: Any) -> Any:
    """The call of an attention layer, made to go by its scores: without dropout it otherwise never has them."""
    asked = "return_attention_scores"
    signature = inspect.signature(original)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        if asked not in signature.parameters or given.arguments.get(asked):
            return original(*args, **kwargs)
        given.arguments[asked] = True
        return original(*given.args, **given.kwargs)[0]

    return call


def _keeping(path: str, original: Any, recorded: CallRecord, *, skip: bool) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        output = args[0] if skip else original(*args, **kwargs)
        recorded.keep(path, output, args[0] if args else None)
        return output

    return call


@contextmanager
def _without_activation(layer: Any) -> Iterator[None]:
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
    """`softmax`, `sigmoid`, `tanh` or `linear` where the layer's class tells; None where it does not."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax" if layer.axis in (-1,) else None
    activation = vars(layer).get("activation")
    for name in ("softmax", "sigmoid", "tanh", "linear"):
        if activation is getattr(keras.activations, name):
            return name
    return None
