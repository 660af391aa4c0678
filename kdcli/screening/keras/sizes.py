"""How large the numbers of a Keras configuration make a model: a small file must stay small."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from kdcli.screening.keras.allowed_names import MODEL_CLASSES, OPERATION_MODULES
from kdcli.screening.keras.objects import VALUES, Found, quote
from kdcli.screening.verdict import Finding

# A single number: padding, units, the length of an axis. Larger ones only say which, or are never asked for.
MOST_NUMBER = 10_000_000
# Values of one tensor, for one example: an input, or what a layer pads, repeats or resizes to.
MOST_TENSOR = 2**28
# Examples in a batch that the model fixes: layers that remember make that many states.
MOST_BATCH = 65_536
# Layers and calls, after every model inside a model is called as often as the configuration says.
MOST_OPERATIONS = 100_000
_SMALLER = {"ngrams": 1000, "num_thresholds": 100_000, "num_classes": 100_000, "fft_length": 1_000_000}
# Numbers that are no sizes, and what is looked at in its own right.
_OTHERS = frozenset(
    "seed salt shared_object_id keras_history mask_value max_value min_value mask_token oov_value oov_token value "
    "vocabulary idf_weights mean variance bin_boundaries value_range name layers input_layers output_layers "
    "build_config compile_config".split()
)
# Counts that cost nothing as long as a layer answers with a number, not with a row of that length.
_COUNTS = frozenset(("max_tokens", "num_bins", "num_tokens", "vocabulary_size"))
# Operations that make more values than they are given; the numbers of the others are only computed with.
_GROWING = frozenset(
    "Append Arange Bincount BroadcastTo CropImages ExtractPatches ExtractSequences FFT FFT2 Fold Full FullLike "
    "Geomspace Histogram IFFT2 IRFFT ISTFT Linspace Logspace MultiHot OneHot Pad PadImages Repeat Reshape Resize "
    "RFFT ScaleAndTranslate STFT Tile Unfold Vander".split()
)
# What only training would use: it is made of a few scalars.
_TRAINING = ("keras.optimizers", "keras.optimizers.schedules")


def check_numbers(found: Found) -> Iterator[Finding]:
    """Refuse numbers of one object that no model has.

    Args:
        found: from `objects_of`.
    """
    spec, groups = found.spec, list(found.config.items())
    if found.kind in ("TensorShape", "__tuple__"):
        groups = [("items", spec.get("items"))]
    elif found.kind in VALUES or found.module in _TRAINING:
        return
    elif found.module in OPERATION_MODULES:
        if found.kind not in _GROWING:
            return
        groups.append(("arguments", spec.get("inbound_nodes")))
    built = spec.get("build_config")
    groups.append(("input_shape", built))
    shapes = [found.config.get("batch_shape"), found.config.get("batch_input_shape")]
    for shape in (*shapes, built.get("input_shape") if isinstance(built, dict) else None):
        if isinstance(shape, list) and shape and _is_size(shape[0]) and shape[0] > MOST_BATCH:
            yield Finding("size", f"{found.layer}: a batch of {shape[0]:.10g} examples, {MOST_BATCH} are the most")
    for key, value in groups:
        if key not in _OTHERS:
            for shape in _shapes(value):
                yield from _check_shape(found, key, shape)


def _check_shape(found: Found, key: str, shape: list[float]) -> Iterator[Finding]:
    most = _SMALLER.get(key, MOST_NUMBER)
    if key in _COUNTS and found.config.get("output_mode", "int") == "int":
        most = 2**63
    told = f"{found.layer}: {found.kind} has {key if key.isidentifier() and len(key) < 80 else quote(key)} "
    large = [number for number in shape if not abs(number) <= most]
    if large:
        yield Finding("size", f"{told}{large[0]:.10g}, {most} is the most")
    elif len(shape) > 1 and prod(max(1, abs(number)) for number in shape[:64]) > MOST_TENSOR:
        yield Finding("size", f"{told}{'×'.join(f'{number:g}' for number in shape[:8])}, too large for a tensor")


def _shapes(value: Any) -> Iterator[list[float]]:
    """The numbers in a value, those of one list together; objects inside come on their own."""
    waiting = [value]
    while waiting:
        held = waiting.pop()
        inner = held if isinstance(held, list) else [held]
        yield [one for one in inner if _is_size(one)]
        if isinstance(held, dict) and "class_name" not in held:
            waiting += [one for key, one in reversed(held.items()) if key not in _OTHERS]
        elif isinstance(held, list):
            waiting += [one for one in reversed(held) if isinstance(one, list | dict)]


def _is_size(value: Any) -> bool:
    """Integers; also floats that are given where only an integer makes sense, such as infinity."""
    if isinstance(value, float):
        return value >= MOST_NUMBER
    return isinstance(value, int) and not isinstance(value, bool)


def check_layer_calls(config: Any) -> Iterator[Finding]:
    """Refuse models that call models that call models, twice each: a short text that never comes to an end.

    Args:
        config: nested no deeper than `keras_json` lets through.
    """
    calls = _calls(config)
    if calls > MOST_OPERATIONS:
        yield Finding("size", f"it becomes {calls:.3g} layers and calls, {MOST_OPERATIONS} are the most")


def _calls(value: Any) -> int:
    if isinstance(value, list):
        return sum(_calls(one) for one in value if isinstance(one, list | dict))
    if not isinstance(value, dict):
        return 0
    nodes, kind = value.get("inbound_nodes"), str(value.get("class_name", ""))
    inside = sum(_calls(one) for key, one in value.items() if key != "inbound_nodes")
    # It makes a second copy of what it holds.
    inside *= 2 if kind == "Bidirectional" else 1
    own = 1 if kind and kind not in VALUES else 0
    again = max(1, len(nodes)) if isinstance(nodes, list) and kind in MODEL_CLASSES else 1
    return own + inside * again + (len(nodes) if isinstance(nodes, list) else 0)
