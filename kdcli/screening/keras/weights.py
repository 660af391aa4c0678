"""How many weights a Keras configuration asks for at least: never more than the file holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

from kdcli.screening.keras.objects import Found
from kdcli.screening.verdict import Finding

# Weights that a model may have although its file holds none: 40 MB.
SPARE_WEIGHTS = 10_000_000
# Quantised weights lie two in one stored value.
WEIGHTS_PER_VALUE = 2


def check_weight_count(objects: Iterable[Found], *, held: int) -> Iterator[Finding]:
    """Refuse a model with more weights than its file has values for.

    What is counted is the least that each layer makes, from its own numbers and the input that it says it was
    built for; what a layer really makes is known only when it is built.

    Args:
        objects: all of the configuration.
        held: values in the file's weights.
    """
    asked, largest, seen = 0, (0, ""), set()
    for found in objects:
        count = count_minimum_weights(found)
        # A layer in two places stands there twice, and has its weights once.
        shared = found.spec.get("shared_object_id") if "module" in found.spec else None
        if shared is not None and (found.kind, str(shared)) in seen:
            continue
        seen.add((found.kind, str(shared)))
        asked += count
        largest = max(largest, (count, f"{found.layer} ({found.kind})"))
    if asked > WEIGHTS_PER_VALUE * held + SPARE_WEIGHTS:
        count, layer = largest
        yield Finding(
            "size",
            f"it asks for {asked:.3g} weights or more, the file holds {held}; most are in {layer}: {count:.3g}",
        )


def count_minimum_weights(found: Found) -> int:
    """The least number of weights of one layer; 0 where nothing is known.

    Args:
        found: any object.
    """
    own = found.spec.get("registered_name") not in (None, found.kind)
    counting = None if own else _COUNTED.get(found.kind)
    return max(0, counting(found)) if counting else 0


def _number(found: Found, key: str, default: int = 1) -> int:
    value = found.config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _area(found: Found) -> int:
    """Of a kernel."""
    size = found.config.get("kernel_size")
    sides = size if isinstance(size, list) else [size]
    return prod(side for side in sides if isinstance(side, int))


def _channels(found: Found) -> int:
    """Of the input that the layer was built for; 1 where the configuration does not say."""
    built: Any = found.spec.get("build_config")
    shape = built.get("input_shape") if isinstance(built, dict) else None
    if not isinstance(shape, list) or len(shape) < 2:
        return 1
    side = shape[1] if found.config.get("data_format") == "channels_first" else shape[-1]
    return side if isinstance(side, int) else 1


def _convolution(found: Found) -> int:
    groups = max(1, _number(found, "groups"))
    return _number(found, "filters") * _area(found) * max(1, _channels(found) // groups)


def _depthwise(found: Found) -> int:
    return _number(found, "depth_multiplier") * _area(found) * _channels(found)


def _separable(found: Found) -> int:
    pointwise = _number(found, "filters") * _number(found, "depth_multiplier") * _channels(found)
    return _depthwise(found) + pointwise


def _recurrent(gates: int) -> Callable[[Found], int]:
    def count(found: Found) -> int:
        units = _number(found, "units")
        return gates * units * (units + _channels(found))

    return count


def _recurrent_convolution(found: Found) -> int:
    return 4 * _number(found, "filters") * _area(found) * (_number(found, "filters") + _channels(found))


def _heads(found: Found) -> int:
    return 2 * _number(found, "num_heads") * _number(found, "key_dim")


def _grouped_heads(found: Found) -> int:
    heads = _number(found, "num_query_heads") + 2 * _number(found, "num_key_value_heads")
    return _number(found, "head_dim") * heads


_COUNTED: dict[str, Callable[[Found], int]] = {
    "Dense": lambda found: _number(found, "units") * _channels(found),
    "Embedding": lambda found: _number(found, "input_dim") * _number(found, "output_dim"),
    "ReversibleEmbedding": lambda found: _number(found, "input_dim") * _number(found, "output_dim"),
    "MultiHeadAttention": _heads,
    "GroupQueryAttention": _grouped_heads,
    **dict.fromkeys(("LSTM", "LSTMCell"), _recurrent(4)),
    **dict.fromkeys(("GRU", "GRUCell"), _recurrent(3)),
    **dict.fromkeys(("SimpleRNN", "SimpleRNNCell"), _recurrent(1)),
    **dict.fromkeys((f"{name}{axes}D" for name in ("Conv", "Convolution") for axes in (1, 2, 3)), _convolution),
    **dict.fromkeys((f"Conv{axes}DTranspose" for axes in (1, 2, 3)), _convolution),
    **dict.fromkeys((f"ConvLSTM{axes}D" for axes in (1, 2, 3)), _recurrent_convolution),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
}
