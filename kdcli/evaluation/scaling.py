"""Which scaling of pictures a network wants, measured when nobody says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdcli.data.examples import Examples
from kdcli.data.order import limited
from kdcli.models.answering import LOGITS, Answering
from kdcli.models.network import Network
from kdcli.models.preparation import SCALES

EXAMPLES = 512
# How many points another scale must be better than `unit` to be taken.
MARGIN = 0.05


@dataclass(frozen=True)
class ScaleChoice:
    """The chosen scale and the accuracy under each one that was tried."""

    scale: str
    accuracies: dict[str, float]


def choose_scale(network: Network, examples: Examples, *, seed: int) -> ScaleChoice:
    """`unit`, unless another scale is better by more than 5 points on 512 labelled examples."""
    if not any(preparation.scaled for preparation in network.preparations.values()):
        return ScaleChoice("unit", {})
    labels = examples.all_labels()
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return ScaleChoice("unit", {})
    sample = examples.subset(limited(labels, len(examples), limit=EXAMPLES, seed=seed))
    truth = np.asarray(sample.all_labels())
    channels = {p.prepared_shape[-1] for p in network.preparations.values() if len(p.prepared_shape) == 3}
    tried = [scale for scale in SCALES if scale not in ("imagenet", "caffe") or channels == {3}]
    accuracies, recalls = {}, {}
    for scale in tried:
        logits = Answering(network.with_scale(scale))(sample.take, len(sample))[LOGITS]
        right = logits.argmax(-1) == truth
        accuracies[scale] = float(right.mean())
        if scale == "unit" and accuracies[scale] >= 1 - MARGIN:
            # No other one can be so much better.
            return ScaleChoice("unit", accuracies)
        recalls[scale] = float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))
    best = max(tried, key=lambda scale: accuracies[scale])
    # Naming one class whatever the picture is chance, however frequent that class is.
    knows = recalls[best] > 1 / len(np.unique(truth)) + MARGIN
    better = knows and accuracies[best] > accuracies["unit"] + MARGIN
    return ScaleChoice(best if better else "unit", accuracies)
