"""kd compress: a trained model and data into a file that meets targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kdcli.compression.request import SEARCH_RECIPE, CompressOptions, make_compress_request, split_options
from kdcli.errors import UsageError
from kdcli.setup.request import ModelLike, RecipeLike, make_request, require

if TYPE_CHECKING:
    from kdcli.recipe.gates import Gate
    from kdcli.runs.compression_results import Compression, CompressionPlan


def compress(
    *models: ModelLike,
    recipe: RecipeLike | None = None,
    students: Sequence[str | Path] = (),
    gates: Sequence[str | Gate] = (),
    strict_gates: bool = False,
    **options: Unpack[CompressOptions],
) -> Compression | CompressionPlan:
    """Compress a trained model into a file that meets targets on size, latency and quality.

    Candidates are made for the targets: smaller versions of the model itself, zoo students, and the given ones.
    They are trained on the model's outputs by successive halving, judged on validation examples. The best are
    trained to the end, exported and quantized as far as the targets allow; one file is measured on test examples.

    Args:
        models: a path, a run directory or a `keras.Model`; several are an ensemble.
        recipe: data, losses and training; `compress` by default.
        students: further candidates: paths or run directories.
        gates: further bounds on the file, such as `balanced_accuracy>=0.9`.
        strict_gates: whether a drop must be shown by its interval.
        options: options of `kdcli.CompressOptions`. With `dry_run` the candidates and the schedule are returned.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.compress("teacher.keras", data="digits", max_size_mb=0.02).model_path   # doctest: +SKIP
    """
    if not models:
        raise UsageError("kd compress needs a model", hint="kd compress MODEL.keras --data D")
    own, run_options = split_options(options)
    teacher = models[0] if len(models) == 1 else list(models)
    request = make_request(recipe, default=SEARCH_RECIPE, teacher=teacher, **run_options)
    require(request, "data", "teacher")
    wanted = make_compress_request(request, own, students=students, gates=gates, strict=strict_gates)
    # This loads NumPy and TensorFlow: errors in the options are reported before.
    from kdcli.compression.run import run_compression

    return run_compression(wanted)
