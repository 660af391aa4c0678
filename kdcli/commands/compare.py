"""kd compare: distilled students against baselines that are trained on labels only."""

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
    """Train every student with every recipe and as a baseline, with the same seeds, and measure the gain.

    Each distinct combination of student, data and train section gets one baseline, trained on labels only with the
    same batches, steps and selection on validation. Runs are in `out/<student>/<recipe>/seed-<k>`.

    Args:
        teacher: a path, a run directory or a `keras.Model`; from the recipe by default. A list is an ensemble.
        students: paths, run directories or models; from each recipe by default.
        recipes: names, paths, mappings or `Recipe`s; `soft-targets` by default.
        distilled: finished runs of `kd distill` to compare; only their baselines are trained.
        repeats: number of pairs per arm, 3 by default; both students of pair k start from fresh weights of seed k.
        latency: whether to time the teacher and one model of each arm.
        gates: bounds such as `gain>=0.005`, for every distilled arm.
        options: options of `kdcli.RecipeOptions` and `kdcli.RunOptions`. `seed` is the seed of the first pair; all
            pairs share split, limit and views. `dry_run` plans the first distilled arm and lists all arms.

    Raises:
        kdcli.errors.KdError: any expected error, by its subclasses.

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
    # These load NumPy and TensorFlow: errors in a recipe are reported before.
    from kdcli.comparison.run import run_comparison

    return run_comparison(arms, options, gates=gates, latency=latency)
