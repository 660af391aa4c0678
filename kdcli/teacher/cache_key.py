"""What a teacher's answers follow from, part by part: kept answers are used only where all of it is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcli.cache.layout import ArraySpec
from kdcli.data.examples import Examples
from kdcli.data.views import Views
from kdcli.lazy import keras
from kdcli.models.keras.network import KerasNetwork
from kdcli.runs.records import hash_arrays, hash_file
from kdcli.setup.context import Memo
from kdcli.setup.open_models import OpenedModel

# Counts up whenever a preparation or an augmentation changes its meaning: older answers are no answers then.
REVISION = 2

Components = Mapping[str, Any]


def teacher_components(opened: OpenedModel, code: Sequence[Path]) -> dict[str, Any] | None:
    """The teacher's weights, how examples go in and how its outputs are read; None where nothing identifies it.

    A Keras model of Keras' own layers is known by its configuration and weights, whatever file it lies in. What
    own layers do, no configuration tells: there the file is needed, and the code that came with it.
    """
    network, content = opened.network, None
    if not isinstance(network, KerasNetwork):
        content = opened.sha256
    elif _is_plain(network):
        content = _keras_sha256(network.model)
    elif opened.path is not None and code:
        content = opened.sha256
    if content is None:
        return None
    reading = {f"teacher.{name}": value for name, value in network.reading.items()}
    own = {f"code.{number}": hash_file(file) for number, file in enumerate(code)}
    return {"teacher.weights": content, **reading, **own, "teacher.precision": "float32", "revision": REVISION}


def split_components(split: str, examples: Examples, views: Views, memo: Memo) -> dict[str, Any]:
    """Which examples are answered, and in which views."""
    augments = json.dumps([augment.model_dump(mode="json") for augment in views.augments], sort_keys=True)
    # The arrays of a data set live as long as what was opened once; splits and samples of it share them.
    inputs = memo(("inputs sha256", *map(id, examples.inputs.values())), lambda: hash_arrays(examples.content))
    content = hashlib.sha256(f"{inputs} {hash_arrays([examples.rows])}".encode()).hexdigest()
    known: dict[str, Any] = {"split": split, "data.content": content, "data.examples": len(examples)}
    if views.augments:
        known |= {"views.augment": augments, "views.seed": views.seed, "views.count": views.count}
    return known


def training_components(
    base: Components, train: Examples, views: Views, *, precision: str, arrays: Sequence[ArraySpec], memo: Memo
) -> dict[str, Any]:
    """What the answers to training examples follow from, and how they are kept."""
    kept = ", ".join(f"{spec.name} {spec.dtype}" for spec in arrays)
    return {**base, **split_components("train", train, views, memo), "teacher.precision": precision, "kept": kept}


def _is_plain(network: KerasNetwork) -> bool:
    """Whether a model consists of Keras' own layers, none of which runs a function of somebody's."""
    parts = [network.model, *network.layers]
    own = (part for part in parts if not type(part).__module__.startswith("keras."))
    return next(own, None) is None and not any(isinstance(part, keras.layers.Lambda) for part in parts)


def _keras_sha256(model: Any) -> str:
    config = json.dumps(keras.saving.serialize_keras_object(model), sort_keys=True)
    weights = hash_arrays(variable.numpy() for variable in model.weights)
    return hashlib.sha256(f"{config} {weights}".encode()).hexdigest()
