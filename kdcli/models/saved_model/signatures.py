"""Signatures of SavedModels: which one is used, and loading it as a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError, UsageError
from kdcli.models.files.load import load_keras_2_file, load_saved_model
from kdcli.tensors import Tensor

DEFAULT_SIGNATURE = "serving_default"


class SeveralSignatures(UsageError):
    """A SavedModel with several signatures, none of which was chosen."""


@dataclass(frozen=True)
class LoadedSignature:
    """A signature as a function.

    Args:
        signature: name of the signature.
        signatures: names of all signatures in the file.
        function: `ConcreteFunction` from tensors by name to tensors by name.
        owner: the loaded object; the function works only while it exists.
        exported: whether `model.export` of Keras 3 wrote the file.
    """

    signature: str
    signatures: list[str]
    function: Any
    owner: Any
    exported: bool = False


def choose_signature(names: Sequence[str], option: str | None) -> str:
    """The signature named by the option, else `serving_default`, else the only one.

    Args:
        names: names of all signatures.
        option: one of them, or None.

    Raises:
        UsageError: no such signature, or several to choose from.
        ModelError: the SavedModel has no signature.
    """
    if not names:
        raise ModelError(
            "the SavedModel has no signature",
            hint="save it with signatures=, or a Keras model with model.export(FOLDER)",
        )
    if option in names:
        return str(option)
    if option is None and (DEFAULT_SIGNATURE in names or len(names) == 1):
        return DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in names else names[0]
    found = "several signatures and no serving_default" if option is None else f"no signature {option!r}"
    kind = SeveralSignatures if option is None else UsageError
    raise kind(f"the SavedModel has {found} (got {', '.join(names)})", hint=f"--signature {names[0]}")


def load_signature(folder: Path, signature: str | None) -> LoadedSignature:
    """Load a SavedModel and choose one of its signatures.

    Raises:
        UsageError: no such signature, or several to choose from.
        ModelError: the SavedModel has no signature.
    """
    owner = load_saved_model(folder)
    signatures = getattr(owner, "signatures", {})
    chosen = choose_signature(sorted(signatures), signature)
    # Keras 3 exports have the first attribute and lack the second; SavedModels of Keras 2 have both.
    exported = hasattr(owner, "non_trainable_variables") and not hasattr(owner, "keras_api")
    return LoadedSignature(chosen, sorted(signatures), signatures[chosen], owner, exported)


def load_keras_2_call(path: Path) -> LoadedSignature:
    """Load a Keras 2 file; its call becomes the signature.

    Raises:
        ModelError: the shape of the model's input is unknown.
    """
    import tensorflow

    model = load_keras_2_file(path)
    if not getattr(model, "inputs", None):
        raise ModelError("the shape of the model's input is unknown", hint="call the model once before saving it")
    structure: Any = getattr(model, "input", None)
    by_name = isinstance(structure, dict)
    names = list(structure) if by_name else list(model.input_names)
    tensors = list(structure.values()) if by_name else list(model.inputs)
    specs = {
        name: tensorflow.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in zip(names, tensors, strict=True)
    }

    def call(**inputs: Tensor) -> dict[str, Tensor]:
        batch: Any = inputs if by_name else [inputs[name] for name in names]
        outputs = model(batch if by_name or len(names) > 1 else batch[0], training=False)
        if isinstance(outputs, Mapping):
            return dict(outputs)
        several = outputs if isinstance(outputs, list | tuple) else [outputs]
        return dict(zip(model.output_names, several, strict=True))

    function = tensorflow.function(call, autograph=False).get_concrete_function(**specs)
    return LoadedSignature(DEFAULT_SIGNATURE, [DEFAULT_SIGNATURE], function, model)
