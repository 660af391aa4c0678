"""kd compare: is the distilled student better than the same student trained alone?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kdcli.errors import UsageError
from kdcli.setup.request import ModelLike, RecipeLike, RunOptions

if TYPE_CHECKING:
    from kdcli.recipe.gates import Gate
    from kdcli.runs.comparison_results import Comparison
    from kdcli.runs.results import Plan


def compare(
    *,
    teacher: ModelLike | Sequence[ModelLike] | None = None,
    students: Sequence[ModelLike] = (),
    recipes: Sequence[RecipeLike] = (),
    distilled: Sequence[str | Path] = (),
    repeats: int | None = None,
    latency: bool = True,
    gates: Sequence[str | Gate] = (),
    **options: Unpack[RunOptions],
) -> Comparison | Plan:
    """Train every student under every recipe and alone, with the same seeds, and say what distillation gained.

    For each distinct student, data and train section one baseline is trained on labels alone: same batches, steps
    and selection on validation. Runs are in `out/<student>/<recipe>/seed-<k>`.

    Args:
        teacher: a path, a run directory or a `keras.Model`; the recipe's when left out. A list is an ensemble.
        students: paths, run directories or models; each recipe's own when left out.
        recipes: names, paths, mappings or `Recipe`s; `soft-targets` when left out.
        distilled: finished runs of `kd distill` to compare; only their baselines are trained.
        repeats: pairs of each arm, 3 when left out; both students of pair k start from fresh weights of seed k.
        latency: time the teacher and one model of each arm.
        gates: bounds such as `gain>=0.005`, for every distilled arm.
        options: those of `kdcli.RecipeOptions` and `kdcli.RunOptions`. `seed` is that of the first pair; split,
            limit and views are the same in all of them. `dry_run` plans the first distilled arm and lists all.

    Raises:
        kdcli.errors.KdError: everything that is expected to go wrong, by its subclasses.

    Example:
        >>> import kdcli
        >>> kdcli.compare(teacher="t.keras", recipes=["digits"]).students[1].verdict   # doctest: +SKIP
    """
    from kdcli.comparison.arms import make_arms

    if repeats is not None and repeats < 1:
        raise UsageError(f"--repeats must be 1 or more, got {repeats}")
    arms = make_arms(
        teacher=teacher,
        students=students,
        recipes=recipes,
        distilled=distilled,
        repeats=repeats,
        options=options,
    )
    # From here on NumPy and TensorFlow are loaded: a bad recipe never gets this far.
    from kdcli.comparison.run import run_comparison

    return run_comparison(arms, options, gates=gates, latency=latency)
