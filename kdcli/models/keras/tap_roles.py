"""The roles of a Keras model's taps in automatic pairing, derived from their layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from kdcli.lazy import keras
from kdcli.models.network import TapRoles
from kdcli.tensors import Shape

# Layers that extract no features, by a part of the class name.
_PASSING = ("Dropout", "Random", "Rescaling", "Padding", "Cropping")
_LINEAR = ("BatchNormalization", "Add")


def find_roles(taps: Mapping[str, Shape], paths: Mapping[str, str], layers: Mapping[str, Any]) -> TapRoles:
    """Find the roles of taps.

    Args:
        taps: tap name → shape without the batch axis, in the order of computation.
        paths: tap name → path of its layer.
        layers: layer path → layer.
    """
    attending = [path for path, layer in layers.items() if "Attention" in type(layer).__name__]
    inside = {tap for tap, path in paths.items() if _is_inside(path, attending)}
    secondary = {tap for tap in taps if _extracts_nothing(layers[paths[tap]], taps[tap])} | inside
    # A flattened input is not a feature; a flattened map is.
    secondary |= {tap for tap in list(taps)[:1] if type(layers[paths[tap]]).__name__ == "Flatten"}
    return TapRoles(
        secondary=frozenset(secondary),
        linear=frozenset(tap for tap in taps if tap not in secondary and _is_linear(layers[paths[tap]])),
        normalized=frozenset(tap for tap in taps if type(layers[paths[tap]]).__name__ == "BatchNormalization"),
        scores=frozenset(tap for tap in inside if isinstance(layers[paths[tap]], keras.layers.Softmax)),
        blocks=_find_block_ends(taps, paths, layers, attending, secondary),
    )


def _is_inside(path: str, outer: Iterable[str]) -> bool:
    return any(path.startswith(f"{one}/") for one in outer)


def _extracts_nothing(layer: Any, shape: Shape) -> bool:
    """Whether a layer only drops, pads or scales values, or pools or reshapes a map."""
    name = type(layer).__name__
    if isinstance(layer, keras.layers.Normalization) or any(word in name for word in _PASSING):
        return True
    return len(shape) > 1 and ("Pooling" in name or name == "Reshape")


def _is_linear(layer: Any) -> bool:
    name = type(layer).__name__
    if "Conv" in name or name in ("Dense", "EinsumDense"):
        return getattr(layer, "activation", None) is keras.activations.linear
    return name in _LINEAR


def _find_block_ends(
    taps: Mapping[str, Shape],
    paths: Mapping[str, str],
    layers: Mapping[str, Any],
    attending: list[str],
    secondary: set[str],
) -> tuple[str, ...]:
    """Find the last sequence of each attention block, before the attention of the next block."""
    names = list(taps)
    sequences = [tap for tap in names if len(taps[tap]) == 2 and tap not in secondary]
    if not sequences:
        return ()
    outermost = [path for path in attending if not _is_inside(path, attending)]
    ends = []
    for path in outermost:
        inner = [number for number, tap in enumerate(names) if f"{paths[tap]}/".startswith(f"{path}/")]
        ends.extend([inner[-1]] if inner else [])
    trunk = [tap for tap in sequences if taps[tap] == taps[sequences[-1]] and paths[tap] not in attending]
    # A sum or the output of a composite layer ends a block; a normalization belongs to the next block.
    whole = [tap for tap in trunk if _is_whole(paths[tap], layers)]
    found: dict[str, None] = {}
    bounds = [*sorted(ends), len(names)]
    for start, end in pairwise(bounds):
        between = set(names[start + 1 : end])
        last = [tap for tap in whole if tap in between] or [tap for tap in trunk if tap in between]
        found.update(dict.fromkeys(last[-1:]))
    return tuple(found)


def _is_whole(path: str, layers: Mapping[str, Any]) -> bool:
    return type(layers[path]).__name__ == "Add" or any(other.startswith(f"{path}/") for other in layers)
