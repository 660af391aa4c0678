"""Inner tensors by name: one mechanism for functional, nested and subclassed Keras models.

While a model is traced, the `call` of each layer instance is wrapped to keep what it returns, and put back
afterwards. A tap is the layer's path (`block/convolution`); a layer called twice gives `name:0`, `name:1`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kdcli.lazy import keras

Call = tuple[str, int]


@dataclass
class Recorded:
    """What the layers returned while a model was called.

    Args:
        outputs: (layer path, number of the call) → tensor, in the order in which the calls ended.
        layers: layer path → layer.
    """

    layers: Mapping[str, Any]
    outputs: dict[Call, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def keep(self, path: str, output: Any) -> None:
        """Keep the output of one call."""
        self.outputs[path, self.counts[path]] = output
        self.counts[path] += 1

    def names(self) -> dict[str, Call]:
        """Tap name → call, for every call that returned one tensor."""
        return {
            path if self.counts[path] == 1 else f"{path}:{number}": (path, number)
            for path, number in self.outputs
            if hasattr(self.outputs[path, number], "shape")
        }

    def last(self, output: Any) -> Call | None:
        """The innermost call whose result is the model's own output."""
        return next((call for call, kept in self.outputs.items() if kept is output), None)


def layers_by_path(model: Any) -> dict[str, Any]:
    """Every layer inside a model by its path; a layer reached twice keeps its first path."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def walk(parent: Any, prefix: str) -> None:
        for layer in _inside(parent):
            if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
                continue
            seen.add(id(layer))
            found[f"{prefix}{layer.name}"] = layer
            walk(layer, f"{prefix}{layer.name}/")

    walk(model, "")
    return found


def _inside(parent: Any) -> list[Any]:
    if isinstance(parent, keras.Model):
        return list(parent.layers)
    held: list[Any] = []
    for value in vars(parent).values():
        items = value if isinstance(value, list | tuple) else [value]
        held.extend(item for item in items if isinstance(item, keras.Layer))
    return held


@contextmanager
def recording(layers: Mapping[str, Any], *, bare: str | None = None) -> Iterator[Recorded]:
    """Record the output of each layer while the block runs.

    Args:
        layers: layer path → layer.
        bare: the path of a last layer that shall leave its softmax or sigmoid out, so that logits come out.
    """
    recorded = Recorded(layers)
    try:
        for path, layer in layers.items():
            # Straight into the instance's dictionary: Keras' own attribute tracking must not see this.
            vars(layer)["call"] = _keeping(path, layer, recorded, skip=path == bare and _is_softmax(layer))
        with _without_activation(layers.get(bare) if bare else None):
            yield recorded
    finally:
        for layer in layers.values():
            vars(layer).pop("call", None)


def _keeping(path: str, layer: Any, recorded: Recorded, *, skip: bool) -> Any:
    original = layer.call

    def call(*args: Any, **kwargs: Any) -> Any:
        output = args[0] if skip else original(*args, **kwargs)
        recorded.keep(path, output)
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


def last_activation(layer: Any) -> str | None:
    """`softmax`, `sigmoid` or `linear` where the layer's class tells; None where it does not."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax" if layer.axis in (-1,) else None
    activation = vars(layer).get("activation")
    for name in ("softmax", "sigmoid", "linear"):
        if activation is getattr(keras.activations, name):
            return name
    return None
