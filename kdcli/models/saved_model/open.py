"""SavedModels and files of Keras 2, opened as networks: frozen in a child process, read here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcli.errors import ModelError
from kdcli.extras import require_extra
from kdcli.models.saved_model.freeze import FreezeProcess
from kdcli.models.saved_model.network import GraphNetwork


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
) -> GraphNetwork:
    """Open a SavedModel that was screened.

    Args:
        folder: a private copy; it may be gone afterwards.
        name: what messages call it.
        signature: `serving_default`, or the only one, when left out.
        output: which output, where there are several.
        start_at: a tap or tensor from which the network starts.
        values: what some inputs hold in every answer, by name.
        section: `teacher` or `student`, for hints.
        trainable: whether it is going to be trained.
        threads: of the process that freezes it.

    Raises:
        ModelError: it does not load or cannot do what is asked; UsageError: a name that it does not have.
    """
    from kdcli.models.files.load import load_saved_model

    with FreezeProcess(folder, name=name, signature=signature, values=values, threads=threads) as freezing:
        frozen = freezing.result()
    loaded = load_saved_model(folder) if frozen.graph is None and not (trainable or start_at) else None
    return GraphNetwork(
        frozen,
        name=name,
        output=output,
        start_at=start_at,
        values=values,
        section=section,
        trainable=trainable,
        loaded=loaded,
    )


def open_legacy(
    path: Path,
    *,
    name: str,
    output: str | None = None,
    start_at: str | None = None,
    trainable: bool = False,
    threads: int | None = None,
) -> GraphNetwork:
    """Open a file of Keras 2 that was screened, as the graph that `tf_keras` makes of it.

    Args:
        path: a private copy of a `.h5` or `.keras` file.
        name: what messages call it.
        output: which output, where there are several.
        start_at: a tap or tensor from which the network starts.
        trainable: whether it is going to be trained; it is saved as a SavedModel then.
        threads: of the process that freezes it.

    Raises:
        ModelError: `tf_keras` is missing, does not load the file, or it cannot do what is asked.
        UsageError: a name that it does not have.
    """
    require_extra("legacy", subject=f"{name}: a file of Keras 2, which Keras 3 does not load,")
    with FreezeProcess(path, name=name, legacy=True, threads=threads) as freezing:
        frozen = freezing.result()
    if frozen.graph is None:
        raise ModelError(
            f"{name}: a file of Keras 2 opens as a graph only, and {frozen.unfrozen}",
            hint="save it with Keras 2 as a folder: model.export(FOLDER)",
        )
    return GraphNetwork(frozen, name=name, output=output, start_at=start_at, trainable=trainable)
