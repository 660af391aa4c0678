"""Limits on the numbers in a Keras configuration: a small file must not become a large model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from operator import mul
from typing import Any

from kdcli.screening.keras.allowed_names import MODEL_CLASSES, OPERATION_MODULES
from kdcli.screening.keras.objects import VALUES, ConfigObject
from kdcli.screening.verdict import Finding, quote

# For one number: padding, units, the length of an axis. Larger ones are identifiers or values, not sizes.
_MAX_NUMBER = 10_000_000
# Values of one tensor for one example: an input, or what a layer pads, repeats or resizes to.
_MAX_TENSOR_VALUES = 2**28
# Examples in a fixed batch: stateful layers create one state for each of them.
_MAX_BATCH = 65_536
# Layers and calls after nested models are expanded.
_MAX_CALLS = 100_000
_LOWER_LIMITS = {"ngrams": 1000, "num_thresholds": 100_000, "num_classes": 100_000, "fft_length": 1_000_000}
# Keys whose numbers are not sizes, or that are checked elsewhere.
_IGNORED_KEYS = frozenset(
    "seed salt shared_object_id keras_history mask_value max_value min_value mask_token oov_value oov_token value "
    "vocabulary idf_weights mean variance bin_boundaries value_range name layers input_layers output_layers "
    "build_config compile_config".split()
)
# Counts that cost nothing while the layer outputs one number instead of a row of that length.
_COUNT_KEYS = frozenset(("max_tokens", "num_bins", "num_tokens", "vocabulary_size"))
# Operations whose output may be larger than their input; other operations only compute with their numbers.
_GROWING_OPERATIONS = frozenset(
    "Append Arange Bincount BroadcastTo CropImages ExtractPatches ExtractSequences FFT FFT2 Fold Full FullLike "
    "Geomspace Histogram IFFT2 IRFFT ISTFT Linspace Logspace MultiHot OneHot Pad PadImages Repeat Reshape Resize "
    "RFFT ScaleAndTranslate STFT Tile Unfold Vander".split()
)
# Used by training only, and small.
_TRAINING_MODULES = ("keras.optimizers", "keras.optimizers.schedules")


def check_numbers(item: ConfigObject) -> Iterator[Finding]:
    """Refuse sizes in one object that no real model has.

    Args:
        item: from `find_objects`.
    """
    spec, groups = item.spec, list(item.config.items())
    if item.kind in ("TensorShape", "__tuple__"):
        groups = [("items", spec.get("items"))]
    elif item.kind in VALUES or item.module in _TRAINING_MODULES:
        return
    elif item.module in OPERATION_MODULES:
        if item.kind not in _GROWING_OPERATIONS:
            return
        groups.append(("arguments", spec.get("inbound_nodes")))
    built = spec.get("build_config")
    groups.append(("input_shape", built))
    shapes = [item.config.get("batch_shape"), item.config.get("batch_input_shape")]
    for shape in (*shapes, built.get("input_shape") if isinstance(built, dict) else None):
        if isinstance(shape, list) and shape and _is_size(shape[0]) and shape[0] > _MAX_BATCH:
            count = format_number(shape[0])
            yield Finding("size", f"{item.layer}: a batch of {count} examples (at most {_MAX_BATCH:,})")
    for key, value in groups:
        if key not in _IGNORED_KEYS:
            for sizes in _size_groups(value):
                yield from _check_sizes(item, key, sizes)


def _check_sizes(item: ConfigObject, key: str, sizes: list[float]) -> Iterator[Finding]:
    most = _LOWER_LIMITS.get(key, _MAX_NUMBER)
    if key in _COUNT_KEYS and item.config.get("output_mode", "int") == "int":
        most = 2**63
    where = f"{item.layer}: {item.kind} has {key if key.isidentifier() and len(key) < 80 else quote(key)}"
    large = [size for size in sizes if not abs(size) <= most]
    if large:
        yield Finding("size", f"{where} {format_number(large[0])} (at most {most:,})")
    elif len(sizes) > 1 and _is_too_large(sizes[:64]):
        yield Finding("size", f"{where} {'×'.join(f'{size:g}' for size in sizes[:8])}, too large for a tensor")


def _is_too_large(shape: list[float]) -> bool:
    # Stops at the first product above the limit: the whole product may be larger than any float.
    products = accumulate((max(1, abs(side)) for side in shape), mul)
    return any(product > _MAX_TENSOR_VALUES for product in products)


def _size_groups(value: Any) -> Iterator[list[float]]:
    """The sizes in a value, those of one list together; objects inside the value are checked on their own."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        inner = current if isinstance(current, list) else [current]
        yield [one for one in inner if _is_size(one)]
        if isinstance(current, dict) and "class_name" not in current:
            waiting += [one for key, one in reversed(current.items()) if key not in _IGNORED_KEYS]
        elif isinstance(current, list):
            waiting += [one for one in reversed(current) if isinstance(one, list | dict)]


def _is_size(value: Any) -> bool:
    """Whether a value is an integer, or a float so large that only an integer makes sense, such as infinity."""
    if isinstance(value, float):
        return value >= _MAX_NUMBER
    return isinstance(value, int) and not isinstance(value, bool)


def check_layer_calls(config: Any) -> Iterator[Finding]:
    """Refuse nested models that call each other several times: a short text that expands exponentially.

    Args:
        config: from `parse_json`, which limits its depth.
    """
    calls = _count_calls(config)
    if calls > _MAX_CALLS:
        message = f"the configuration expands to {calls:.3g} layers and calls (at most {_MAX_CALLS:,})"
        yield Finding("size", message)


def _count_calls(value: Any) -> int:
    if isinstance(value, list):
        return sum(_count_calls(one) for one in value if isinstance(one, list | dict))
    if not isinstance(value, dict):
        return 0
    nodes, kind = value.get("inbound_nodes"), str(value.get("class_name", ""))
    inside = sum(_count_calls(one) for key, one in value.items() if key != "inbound_nodes")
    # A bidirectional layer copies the layer inside it.
    inside *= 2 if kind == "Bidirectional" else 1
    this = 1 if kind and kind not in VALUES else 0
    times = max(1, len(nodes)) if isinstance(nodes, list) and kind in MODEL_CLASSES else 1
    return this + inside * times + (len(nodes) if isinstance(nodes, list) else 0)


def format_number(number: float, digits: int = 10) -> str:
    """A number with so many significant digits; an integer may be larger than any float."""
    try:
        return f"{number:.{digits}g}"
    except OverflowError:
        return "more than 1e308"
