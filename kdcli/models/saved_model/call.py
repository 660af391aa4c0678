"""What the child process loads: a signature of a SavedModel, or the call of a Keras-2 model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError
from kdcli.models.files.load import load_keras_2_file, load_saved_model
from kdcli.models.saved_model.signatures import DEFAULT_SIGNATURE, choose_signature


@dataclass(frozen=True)
class LoadedSignature:
    """A signature as a function.

    Args:
        signature: the one that was chosen.
        signatures: all that there are.
        function: a `ConcreteFunction` that takes and returns tensors by name.
        owner: kept alive as long as the function is asked.
        exported: whether `model.export` of Keras 3 wrote it.
    """

    signature: str
    signatures: list[str]
    function: Any
    owner: Any
    exported: bool = False


def load_exported(folder: Path, signature: str | None) -> LoadedSignature:
    """Load a SavedModel.

    Raises:
        UsageError: no such signature, or several to choose from; ModelError: there is none.
    """
    owner = load_saved_model(folder)
    signatures = getattr(owner, "signatures", {})
    chosen = choose_signature(sorted(signatures), signature)
    # What an export of Keras 3 puts beside its signatures, and Keras 2 does not.
    exported = hasattr(owner, "non_trainable_variables") and not hasattr(owner, "keras_api")
    return LoadedSignature(chosen, sorted(signatures), signatures[chosen], owner, exported)


def load_keras_2_call(path: Path) -> LoadedSignature:
    """Load a file of Keras 2; its call becomes the signature.

    Raises:
        ModelError: a model without known inputs.
    """
    import tensorflow

    model: Any = load_keras_2_file(path)
    if not getattr(model, "inputs", None):
        raise ModelError("the shape of the model's input is unknown", hint="call the model once before saving it")
    structure: Any = getattr(model, "input", None)
    given = isinstance(structure, dict)
    names = list(structure) if given else list(model.input_names)
    tensors = list(structure.values()) if given else list(model.inputs)
    specs = {
        name: tensorflow.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in zip(names, tensors, strict=True)
    }

    def call(**inputs: Any) -> dict[str, Any]:
        arranged: Any = inputs if given else [inputs[name] for name in names]
        answered = model(arranged if given or len(names) > 1 else arranged[0], training=False)
        if isinstance(answered, Mapping):
            return dict(answered)
        many = answered if isinstance(answered, list | tuple) else [answered]
        return dict(zip(model.output_names, many, strict=True))

    function = tensorflow.function(call, autograph=False).get_concrete_function(**specs)
    return LoadedSignature(DEFAULT_SIGNATURE, [DEFAULT_SIGNATURE], function, model)
