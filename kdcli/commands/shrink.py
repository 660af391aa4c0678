"""kd shrink: make a student from the teacher's own graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kdcli.artifacts.shrink_request import ShrinkOptions, read_shrink_request
from kdcli.artifacts.shrunk_file import shrink_to_file
from kdcli.setup.model_objects import is_object, store_objects
from kdcli.setup.request import ModelLike, RecipeLike
from kdcli.tensors import KerasModel

if TYPE_CHECKING:
    from kdcli.recipe.gates import Gate
    from kdcli.runs.shrink_results import ShrinkResult


def shrink(
    teacher: ModelLike,
    *,
    recipe: RecipeLike | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[ShrinkOptions],
) -> ShrinkResult | KerasModel:
    """Make a student: the teacher without its least important channels.

    The student is a plain `.keras` file that opens without kd. Nothing is trained: the size is found by building
    students and measuring their files. Distil the teacher into the student afterwards.

    Args:
        teacher: a Keras file, a `keras.Model`, or a run directory, which brings its data and preprocessing.
        recipe: for its `data`, `teacher.input` and `gates`, and its student if that is a shrunk one.
        out: the file to write; `<name>-shrunk.keras` by default, none for a `keras.Model`.
        overwrite: whether to replace that file.
        gates: bounds such as `accuracy_drop<=0.2`; they replace those of the recipe for the same metric.
        options: options of `kdcli.RecipeOptions` and `kdcli.ShrinkOptions`. Without data, weights rank the
            channels, and BatchNorm statistics are unchanged.

    Returns:
        The file with everything measured; for a `keras.Model` the student itself, a `keras.Model`.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.shrink("teacher.keras", data="digits", keep=0.5).path   # doctest: +SKIP
    """
    with store_objects([teacher]) as (source,):
        if is_object(teacher) and out is None:
            options["dry_run"] = True
        target = None if out is None else Path(out)
        result = shrink_to_file(*read_shrink_request(source, recipe, options, target, overwrite, gates))
    return result.model if is_object(teacher) else result
