"""kd quantize: train a finished student with the rounding of its 8-bit file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kdcli.compression.quantize_request import make_quantize_request
from kdcli.setup.request import RecipeLike, RunOptions

if TYPE_CHECKING:
    from kdcli.recipe.gates import Gate
    from kdcli.runs.quantization_results import Quantization
    from kdcli.runs.results import Plan


def quantize(
    model: str | Path,
    *,
    teacher: str | Path | None = None,
    recipe: RecipeLike | None = None,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[RunOptions],
) -> Quantization | Plan:
    """Quantization-aware training (QAT): train a finished student further, with the rounding of its 8-bit file.

    BatchNorm is folded into the weights. Weights are rounded per output channel. Activations are rounded
    within ranges, which are measured on examples and then trained. The targets are the student's own float32
    outputs, and those of its teacher. The result is the better of two files on validation examples: this one,
    and one that is quantized after training.

    Args:
        model: a Keras file, or a run, which brings its data, preprocessing, optimizer and teacher.
        teacher: the path of a teacher besides the model itself; by default the run's teacher.
        recipe: for data, preprocessing and optimizer.
        gates: bounds on the file, such as `export_drop<=0.01`.
        options: options of `kdcli.RecipeOptions` and `kdcli.RunOptions`. By default 3 epochs and at least 300
            steps, at a tenth of the learning rate.

    Returns:
        The run with `model_path`, the 8-bit file; the plan with `dry_run`.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.quantize("runs/a", out="runs/a-int8").model_path   # doctest: +SKIP
    """
    request = make_quantize_request(Path(model), teacher=teacher, recipe=recipe, gates=gates, **options)
    # This loads NumPy and TensorFlow: errors in a recipe are reported before.
    from kdcli.compression.quantized_run import run_quantization

    return run_quantization(request)
