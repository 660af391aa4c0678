"""Components of the cache key: cached outputs are used only if every component is the same."""

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
from kdcli.runs.run_environment import hash_arrays, hash_file
from kdcli.setup.context import Memo
from kdcli.setup.open_models import OpenedModel
from kdcli.tensors import KerasModel

# Increased whenever a preprocessing or an augmentation changes its result: older outputs are then invalid.
REVISION = 2

Components = Mapping[str, Any]


def teacher_components(opened: OpenedModel, code: Sequence[Path]) -> dict[str, Any] | None:
    """Collect what identifies the teacher: its weights, its preprocessing and how its outputs are read.

    A Keras model of built-in layers is identified by its config and weights, in whatever file it is saved. The
    config does not say what custom layers compute, so they also need the file and the code that came with it.

    Args:
        opened: the teacher.
        code: files with custom code.

    Returns:
        The components by name; None if the teacher cannot be identified.
    """
    network, content = opened.network, None
    if not isinstance(network, KerasNetwork):
        content = opened.sha256
    elif _has_builtin_layers_only(network):
        content = _hash_model(network.model)
    elif opened.path is not None and code:
        content = opened.sha256
    if content is None:
        return None
    reading = {f"teacher.{name}": value for name, value in network.reading.items()}
    custom = {f"code.{number}": hash_file(file) for number, file in enumerate(code)}
    return {"teacher.weights": content, **reading, **custom, "teacher.precision": "float32", "revision": REVISION}


def split_components(split: str, examples: Examples, views: Views, memo: Memo) -> dict[str, Any]:
    """Collect what identifies the examples of a split and their views.

    Args:
        split: name of the split.
        examples: the examples.
        views: their augmentation.
        memo: remembers the hash of the inputs.
    """
    augments = json.dumps([augment.model_dump(mode="json") for augment in views.augments], sort_keys=True)
    # Splits and samples of a data set share its arrays, which live as long as the memo: their ids are stable.
    inputs = memo(("inputs sha256", *map(id, examples.inputs.values())), lambda: hash_arrays(examples.content))
    content = hashlib.sha256(f"{inputs} {hash_arrays([examples.rows])}".encode()).hexdigest()
    components: dict[str, Any] = {"split": split, "data.content": content, "data.examples": len(examples)}
    if views.augments:
        components |= {"views.augment": augments, "views.seed": views.seed, "views.count": views.count}
    return components


def training_components(
    base: Components, train: Examples, views: Views, *, precision: str, arrays: Sequence[ArraySpec], memo: Memo
) -> dict[str, Any]:
    """Collect what identifies the stored outputs for the training examples.

    Args:
        base: components of the teacher.
        train: the training examples.
        views: their augmentation.
        precision: precision in which the teacher computes.
        arrays: stored arrays with their dtypes.
        memo: remembers the hash of the inputs.
    """
    stored = ", ".join(f"{spec.name} {spec.dtype}" for spec in arrays)
    return {
        **base,
        **split_components("train", train, views, memo),
        "teacher.precision": precision,
        "kept": stored,
    }


def _has_builtin_layers_only(network: KerasNetwork) -> bool:
    """Whether a model consists of Keras' own layers, none of which calls a custom function."""
    parts = [network.model, *network.layers]
    custom = (part for part in parts if not type(part).__module__.startswith("keras."))
    return next(custom, None) is None and not any(isinstance(part, keras.layers.Lambda) for part in parts)


def _hash_model(model: KerasModel) -> str:
    config = json.dumps(keras.saving.serialize_keras_object(model), sort_keys=True)
    weights = hash_arrays(variable.numpy() for variable in model.weights)
    return hashlib.sha256(f"{config} {weights}".encode()).hexdigest()
