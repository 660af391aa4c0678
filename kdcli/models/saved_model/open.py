"""Open SavedModels and Keras 2 files as networks: frozen in a child process, read here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError
from kdcli.extras import require_extra
from kdcli.models.files.load import load_saved_model
from kdcli.models.saved_model.freeze import FreezeProcess
from kdcli.models.saved_model.network import FrozenNetwork, SavedModelNetwork, SignatureNetwork


def open_graph(
    folder: Path,
    *,
    name: str,
    signature: str | None = None,
    output: str | None = None,
    start_at: str | None = None,
    values: Mapping[str, Any] | None = None,
    section: str = "student",
    trainable: bool = False,
    threads: int | None = None,
) -> SavedModelNetwork:
    """Open a screened SavedModel.

    Args:
        folder: private copy; it may be removed afterwards.
        name: name of the model in messages.
        signature: name of the signature; `serving_default` or the only one if omitted.
        output: name of the output; may be omitted if there is only one.
        start_at: tap or tensor from which the network starts.
        values: fixed values of some inputs, by input name.
        section: `teacher` or `student`, for hints.
        trainable: whether the network will be trained.
        threads: number of threads TensorFlow uses in the freezing process.

    Raises:
        ModelError: the model does not load, or cannot be used as requested.
        UsageError: no such signature, output or tensor.
    """
    with FreezeProcess(folder, name=name, signature=signature, values=values, threads=threads) as process:
        frozen = process.result()
    if frozen.graph is None and not (trainable or start_at):
        loaded = load_saved_model(folder)
        return SignatureNetwork(frozen, loaded, name=name, output=output, values=values, section=section)
    return FrozenNetwork(
        frozen,
        name=name,
        output=output,
        start_at=start_at,
        values=values,
        section=section,
        trainable=trainable,
    )


def open_legacy(
    path: Path,
    *,
    name: str,
    output: str | None = None,
    start_at: str | None = None,
    trainable: bool = False,
    threads: int | None = None,
) -> FrozenNetwork:
    """Open a screened Keras 2 file as the graph that `tf_keras` makes of it.

    Args:
        path: private copy of a `.h5` or `.keras` file.
        name: name of the model in messages.
        output: name of the output; may be omitted if there is only one.
        start_at: tap or tensor from which the network starts.
        trainable: whether the network will be trained; it is then saved as a SavedModel.
        threads: number of threads TensorFlow uses in the freezing process.

    Raises:
        ModelError: `tf_keras` is missing or does not load the file, or the model cannot be used as requested.
        UsageError: no such output or tensor.
    """
    require_extra("legacy", subject=f"{name}: a Keras 2 file, which Keras 3 does not load,")
    with FreezeProcess(path, name=name, legacy=True, threads=threads) as process:
        frozen = process.result()
    if frozen.graph is None:
        raise ModelError(
            f"{name}: a Keras 2 file can only be opened as a graph, and {frozen.unfrozen_reason}",
            hint="save it with Keras 2 as a folder: model.export(FOLDER)",
        )
    return FrozenNetwork(frozen, name=name, output=output, start_at=start_at, trainable=trainable)
