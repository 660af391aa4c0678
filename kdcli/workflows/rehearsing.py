"""What a comparison looks at before it starts: its data, and with `--dry-run` its first arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdcli.data.dataset import Dataset
from kdcli.errors import UsageError
from kdcli.runs.comparison import ComparisonDirectory
from kdcli.runs.results import Plan
from kdcli.workflows.arms import Arm
from kdcli.workflows.opening import Surroundings, open_distillation
from kdcli.workflows.placing import Place
from kdcli.workflows.previewing import check_before, make_plan


def refuse_unmeasurable(dataset: Dataset) -> None:
    """Refuse data on which nothing can be compared, before anything is trained.

    Raises:
        UsageError: no test split, or no labels.
    """
    if dataset.test is None:
        raise UsageError(
            f"kd compare needs a test split, and {dataset.name} has none",
            hint="--set 'data.source={train: A.npz, test: B.npz}'",
        )
    if not dataset.labelled or dataset.test.labels is None:
        raise UsageError(f"kd compare needs labels, and {dataset.name} has none")


def preview(arms: Sequence[Arm], place: ComparisonDirectory, around: Surroundings, *, preflight: bool) -> Plan:
    """The plan of the first distilled arm that is to be trained, with the list of all arms; writes nothing.

    Raises:
        UsageError: every distilled arm is finished already.
    """
    arm = next((arm for arm in arms if arm.baseline is not None and not arm.finished), None)
    if arm is None:
        raise UsageError("--dry-run shows how a student is distilled; every RUN here is finished")
    path = place.path / arm.folder / "dry-run"
    job = open_distillation(Place(path, arm.at(arm.seeds[0]), resume=False, overwrite=False), around)
    plan = make_plan(job, check_before(job) if preflight else (), measured=True)
    listed = tuple({"name": one.name, "runs": len(one.seeds), "baseline": one.baseline} for one in arms)
    return replace(plan, arms=listed)
