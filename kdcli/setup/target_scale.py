"""Targets that are values, and a model whose outputs have another scale: [0, 1], [-1, 1] or 0 to 255."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.errors import ModelError
from kdcli.events import Note, OnEvent
from kdcli.lazy import ops

# Examples that are looked at, and how much closer another scale must be to be the right one.
SAMPLE, CLOSER = 64, 0.5
# What bounded activations can give, and the fraction of targets beyond it that is too many.
BOUNDS = {"sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0)}
SLACK, BEYOND = 0.05, 0.01
# How many times larger outputs or targets may be than the other before it is said.
RATIO = 20
WIDTHS = {"unit": 1.0, "signed": 2.0, "raw": 255.0}


def check_target_scale(network: Any, dataset: Dataset, *, role: str, measured: bool, on_event: OnEvent) -> None:
    """Refuse a model whose outputs have another scale than the targets: asked of its last layer, then measured.

    Args:
        network: behind its preparation.
        role: `teacher` or `student`.
        measured: whether its weights mean something.
        on_event: told of ranges that differ where no scale explains it.

    Raises:
        ModelError: naming the scale that fits.
    """
    if dataset.task != "regression" or dataset.train.labels is None:
        return
    positions = np.linspace(0, len(dataset.train) - 1, min(SAMPLE, len(dataset.train))).astype(int)
    targets = np.asarray(dataset.train.labels_at(positions), np.float64)
    _refuse_beyond(network, targets, dataset, role)
    if not measured:
        return
    outputs = np.asarray(
        ops.convert_to_numpy(network.compute_saved_output(dataset.train.take(positions))), np.float64
    )
    known = _in_every_scale(targets, dataset.target_scale)
    errors = {
        scale: float(np.sqrt(np.mean(np.square(outputs - values)))) / WIDTHS[scale]
        for scale, values in known.items()
    }
    best = min(errors, key=lambda scale: errors[scale], default=dataset.target_scale)
    # Outputs that are no better than a constant are no evidence.
    knows = best in known and errors[best] * WIDTHS[best] < known[best].std()
    if knows and best != dataset.target_scale and errors[best] < CLOSER * errors[dataset.target_scale]:
        raise ModelError(
            f"{role} ({network.name}): its outputs, {outputs.min():.4g} to {outputs.max():.4g}, fit targets of "
            f"the scale {best} (error {errors[best]:.3f} of the range) and not {dataset.target_scale} "
            f"({errors[dataset.target_scale]:.3f})",
            hint=f"--set data.target_scale={best}",
        )
    if getattr(network, "activation", None) == "softmax":
        text = "its last layer is a softmax, for classes; the data has values, compared with its probabilities"
        on_event(Note(f"{role} ({network.name}): {text}", warning=True))
    largest, wanted = np.abs(outputs).max(), np.abs(targets).max()
    if max(largest, wanted) > RATIO * min(largest, wanted):
        text = f"its outputs reach {largest:.4g} and the targets {wanted:.4g}: they seem to have another scale"
        on_event(Note(f"{role} ({network.name}): {text}", warning=True))


def _refuse_beyond(network: Any, targets: np.ndarray, dataset: Dataset, role: str) -> None:
    """Refuse targets that the last layer cannot give."""
    activation = getattr(network, "activation", None)
    if activation not in BOUNDS:
        return
    low, high = BOUNDS[activation]
    if np.mean((targets < low - SLACK) | (targets > high + SLACK)) <= BEYOND:
        return
    scales = ["unit", "signed"] if activation != "tanh" else ["signed", "unit"]
    known = _in_every_scale(targets, dataset.target_scale)
    fitting = [
        scale for scale in scales if scale in known and low <= known[scale].min() and known[scale].max() <= high
    ]
    raise ModelError(
        f"{role} ({network.name}): its last layer, {activation}, gives {low:g} to {high:g}, the targets go from "
        f"{targets.min():.4g} to {targets.max():.4g}",
        hint=f"--set data.target_scale={fitting[0]}"
        if fitting
        else "targets in that range, or another last layer",
    )


def _in_every_scale(targets: np.ndarray, scale: str) -> dict[str, np.ndarray]:
    """Targets of images in each scale; empty where they are values of another kind."""
    raw = {"unit": targets * 255, "signed": (targets + 1) * 127.5}.get(scale, targets)
    if targets.ndim < 2 or raw.min() < 0 or raw.max() > 255 or raw.max() < 100:
        return {}
    return {"unit": raw / 255, "signed": raw / 127.5 - 1, "raw": raw}
