"""Models given as Python objects to functions that work on files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kdcli.setup.request import ModelLike


def is_object(model: ModelLike) -> bool:
    """Whether a model is a Python object and not a path."""
    return not isinstance(model, str | Path)


@contextmanager
def store_objects(models: Sequence[ModelLike]) -> Iterator[list[Path]]:
    """Yield a path for each model; objects are saved to files that exist during the block.

    Args:
        models: paths, run directories and `keras.Model`s; a model is saved under its name.

    Raises:
        UsageError: an object is not a model.
    """
    with ExitStack() as stack:
        paths = []
        for number, model in enumerate(models):
            paths.append(Path(model) if not is_object(model) else _store(model, number, stack))
        yield paths


def _store(model: Any, number: int, stack: ExitStack) -> Path:
    # Paths, the usual case, need no Keras.
    from kdcli.errors import UsageError
    from kdcli.lazy import keras
    from kdcli.models.keras.model import save_to_bytes
    from kdcli.runs import writer

    if not isinstance(model, keras.Model):
        raise UsageError(f"a model must be a path or a keras.Model (got {type(model).__name__})")
    scratch = stack.enter_context(writer.scratch_folder(10_000_000 + 12 * model.count_params()))
    folder = scratch / str(number)
    folder.mkdir()
    path = folder / f"{model.name}.keras"
    path.write_bytes(save_to_bytes(model, scratch))
    return path
