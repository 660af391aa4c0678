"""kd shrink: make a student from the teacher's own graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, overload

from kdcli.artifacts.shrink_request import ShrinkOptions, make_shrink_request
from kdcli.artifacts.shrunk_file import shrink_to_file
from kdcli.extras import require_extra
from kdcli.models.files.format import resolve_model_file
from kdcli.screening.verdict import NO_TRUST
from kdcli.setup.model_objects import is_object, store_objects
from kdcli.setup.named_models import check_limits, request_for_models
from kdcli.setup.request import ModelLike, RecipeLike, RecipeOptions
from kdcli.tensors import KerasModel

if TYPE_CHECKING:
    from kdcli.recipe.gates import Gate
    from kdcli.runs.shrink_results import ShrinkResult


@overload
def shrink(
    teacher: str | Path,
    *,
    recipe: RecipeLike | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[ShrinkOptions],
) -> ShrinkResult: ...


@overload
def shrink(
    teacher: KerasModel,
    *,
    recipe: RecipeLike | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[ShrinkOptions],
) -> KerasModel: ...


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
        result = _shrink_file(source, recipe, out=out, overwrite=overwrite, gates=gates, options=options)
    return result.model if is_object(teacher) else result


def _shrink_file(
    source: Path,
    recipe: RecipeLike | None,
    *,
    out: str | Path | None,
    overwrite: bool,
    gates: Sequence[str | Gate],
    options: ShrinkOptions,
) -> ShrinkResult:
    resolve_model_file(source, trust=options.get("trust", NO_TRUST))
    check_limits(limit=options.get("limit"), batch_size=options.get("batch_size"))
    names = RecipeOptions.__annotations__.keys() - {"batch_size"} | {"seed", "dry_run"}
    shared = {name: value for name, value in options.items() if name in names}
    request = request_for_models([source], recipe, role="teacher", **shared)  # type: ignore[arg-type]
    shrink_request = make_shrink_request(
        source, options, request, out=None if out is None else Path(out), overwrite=overwrite, gates=gates
    )
    if shrink_request.form.extra is not None:
        require_extra(shrink_request.form.extra, subject=f"--measure-as {shrink_request.measured_as}")
    return shrink_to_file(shrink_request, request)
