"""The minimum number of weights that a Keras configuration needs, checked against the values in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

from kdcli.screening.keras.objects import ConfigObject
from kdcli.screening.keras.sizes import format_number
from kdcli.screening.verdict import Finding

# Weights that a model may have without values in its file: 40 MB.
SPARE_WEIGHTS = 10_000_000
# Four-bit quantization packs two weights into one stored value.
WEIGHTS_PER_VALUE = 2


def check_weight_count(objects: Iterable[ConfigObject], *, stored_values: int) -> Iterator[Finding]:
    """Refuse a model that needs more weights than its file has values for.

    Counts the minimum for each layer, from its own settings and the input shape that it says it was built for; the
    exact number is only known once the layer is built.

    Args:
        objects: all objects of the configuration.
        stored_values: number of values in the file's weights.
    """
    total, largest, seen = 0, (0, ""), set()
    for item in objects:
        count = count_minimum_weights(item)
        # A shared layer appears several times but has its weights once.
        shared = item.spec.get("shared_object_id") if "module" in item.spec else None
        if shared is not None and (item.kind, str(shared)) in seen:
            continue
        seen.add((item.kind, str(shared)))
        total += count
        largest = max(largest, (count, f"{item.layer} ({item.kind})"))
    if total > WEIGHTS_PER_VALUE * stored_values + SPARE_WEIGHTS:
        count, layer = largest
        message = (
            f"the model needs at least {format_number(total, 3)} weights, the file has {stored_values:,}; "
            f"most of them in {layer}: {format_number(count, 3)}"
        )
        yield Finding("size", message)


def count_minimum_weights(item: ConfigObject) -> int:
    """The minimum number of weights of one layer; 0 if unknown.

    Args:
        item: any object of a configuration.
    """
    custom = item.spec.get("registered_name") not in (None, item.kind)
    count = None if custom else _COUNTERS.get(item.kind)
    return max(0, count(item)) if count else 0


def _integer(item: ConfigObject, key: str, default: int = 1) -> int:
    value = item.config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _kernel_size(item: ConfigObject) -> int:
    """Number of positions in a kernel."""
    size = item.config.get("kernel_size")
    sides = size if isinstance(size, list) else [size]
    return prod(side for side in sides if isinstance(side, int))


def _input_channels(item: ConfigObject) -> int:
    """Channels of the input that the layer was built for; 1 if the configuration does not say."""
    built: Any = item.spec.get("build_config")
    shape = built.get("input_shape") if isinstance(built, dict) else None
    if not isinstance(shape, list) or len(shape) < 2:
        return 1
    side = shape[1] if item.config.get("data_format") == "channels_first" else shape[-1]
    return side if isinstance(side, int) else 1


def _count_convolution(item: ConfigObject) -> int:
    groups = max(1, _integer(item, "groups"))
    return _integer(item, "filters") * _kernel_size(item) * max(1, _input_channels(item) // groups)


def _count_depthwise(item: ConfigObject) -> int:
    return _integer(item, "depth_multiplier") * _kernel_size(item) * _input_channels(item)


def _count_separable(item: ConfigObject) -> int:
    pointwise = _integer(item, "filters") * _integer(item, "depth_multiplier") * _input_channels(item)
    return _count_depthwise(item) + pointwise


def _recurrent_counter(gates: int) -> Callable[[ConfigObject], int]:
    def count(item: ConfigObject) -> int:
        units = _integer(item, "units")
        return gates * units * (units + _input_channels(item))

    return count


def _count_recurrent_convolution(item: ConfigObject) -> int:
    return 4 * _integer(item, "filters") * _kernel_size(item) * (_integer(item, "filters") + _input_channels(item))


def _count_attention(item: ConfigObject) -> int:
    return 2 * _integer(item, "num_heads") * _integer(item, "key_dim")


def _count_grouped_attention(item: ConfigObject) -> int:
    heads = _integer(item, "num_query_heads") + 2 * _integer(item, "num_key_value_heads")
    return _integer(item, "head_dim") * heads


_COUNTERS: dict[str, Callable[[ConfigObject], int]] = {
    "Dense": lambda item: _integer(item, "units") * _input_channels(item),
    "Embedding": lambda item: _integer(item, "input_dim") * _integer(item, "output_dim"),
    "ReversibleEmbedding": lambda item: _integer(item, "input_dim") * _integer(item, "output_dim"),
    "MultiHeadAttention": _count_attention,
    "GroupQueryAttention": _count_grouped_attention,
    **dict.fromkeys(("LSTM", "LSTMCell"), _recurrent_counter(4)),
    **dict.fromkeys(("GRU", "GRUCell"), _recurrent_counter(3)),
    **dict.fromkeys(("SimpleRNN", "SimpleRNNCell"), _recurrent_counter(1)),
    **dict.fromkeys((f"Conv{axes}D" for axes in (1, 2, 3)), _count_convolution),
    **dict.fromkeys((f"Convolution{axes}D" for axes in (1, 2, 3)), _count_convolution),
    **dict.fromkeys((f"Conv{axes}DTranspose" for axes in (1, 2, 3)), _count_convolution),
    **dict.fromkeys((f"ConvLSTM{axes}D" for axes in (1, 2, 3)), _count_recurrent_convolution),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _count_depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _count_separable),
}
