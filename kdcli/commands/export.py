"""kd export: convert a model to deployable files, each compared with the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kdcli.artifacts.checks import check_conversion
from kdcli.artifacts.conversion import ExportOptions, read_conversion
from kdcli.artifacts.export import export_model
from kdcli.artifacts.file_selection import check_pick
from kdcli.extras import require_extra
from kdcli.models.files.format import detect_format, resolve_model_file
from kdcli.screening.verdict import NO_TRUST
from kdcli.setup.model_objects import store_objects
from kdcli.setup.named_models import check_limits, request_for_models
from kdcli.setup.request import ModelLike, RecipeLike

if TYPE_CHECKING:
    from kdcli.recipe.gates import Gate
    from kdcli.runs.export_results import ExportResult


def export(
    model: ModelLike,
    *,
    formats: Sequence[str],
    recipe: RecipeLike | None = None,
    out: str | Path | None = None,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[ExportOptions],
) -> ExportResult:
    """Export a model to deployable files.

    Each file is opened again in its runtime and compared with the model on the same raw examples. A file that
    loses more than 0.01 of accuracy is deleted (the gate `export_drop` sets another bound). Without labels the
    bound is on the fraction of changed predictions, for regression on the fraction of unexplained variance.

    Args:
        model: a Keras file, a SavedModel, a `keras.Model`, or a run directory, which brings its data and
            preprocessing.
        formats: `keras`, `saved-model`, `litert`, `onnx`, `micro`, `web`, or `all` with every quantization.
        recipe: for its `data`, `student.input` and `gates`.
        out: a new or empty folder; `runs/<time>_export_<name>` by default.
        gates: bounds such as `size_mb<=0.1`; they replace those of the recipe for the same metric.
        options: options of `kdcli.RecipeOptions` and `kdcli.ExportOptions`. Without data, files take the same
            inputs as the model, are compared on random inputs, and cannot be `int8`.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.export("student.keras", formats=["litert"], data="digits").path   # doctest: +SKIP
    """
    with store_objects([model]) as (path,):
        file = resolve_model_file(path, trust=options.get("trust", NO_TRUST))
        detect_format(file)
        conversion, recipe_options = read_conversion(formats, options)
        for form in conversion.formats:
            for extra in form.extras:
                option = "--quantize" if extra == "quantize" else "--format"
                require_extra(extra, subject=f"{option} {form.variant if extra == 'quantize' else form.kind}")
        check_limits(limit=conversion.limit, batch_size=conversion.batch_size, split=conversion.split)
        check_conversion(conversion)
        request = request_for_models([path], recipe, gates=gates, **recipe_options)
        check_pick(conversion.pick, latency=conversion.latency, with_data=request.has_data)
        return export_model(path, file, request, conversion, out=None if out is None else Path(out))
