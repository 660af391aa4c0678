"""kd losses check: test shipped and custom kinds of losses against the contract of losses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.custom_kinds import kind_of
from kdcli.errors import UsageError
from kdcli.loss import Loss
from kdcli.losses import find, instantiate_loss
from kdcli.models.custom_code import find_kinds

if TYPE_CHECKING:
    from kdcli.loss_contract.check import CheckResult
    from kdcli.loss_contract.checked_loss import CheckedLoss


def check_losses(what: str | Path) -> tuple[CheckedLoss, ...]:
    """Check the contract of losses on kinds with their default options.

    Args:
        what: a Python file that defines losses (all of them are checked), or a shipped kind.

    Raises:
        kdcli.errors.UsageError: the kind is unknown, or the file fails or defines no loss.
    """
    members, paths = _find_members(what)
    # TensorFlow starts only now: a file that fails is reported at once.
    from kdcli.setup.startup import start_tensorflow

    start_tensorflow(threads=None, seed=0, code=paths)
    from kdcli.loss_contract.checked_loss import CheckedLoss

    return tuple(CheckedLoss(kind_of(member), _check_member(member)) for member in members)


def _find_members(what: str | Path) -> tuple[list[type[Loss]], tuple[Path, ...]]:
    if not str(what).endswith(".py"):
        return [find(str(what))], ()
    custom = find_kinds([Path(what)])
    members = list(custom.of(Loss).values())
    if not members:
        raise UsageError(
            f"{what} defines no loss: no subclass of Loss or FeatureLoss", hint="docs/custom-kinds.md"
        )
    return members, custom.paths


def _check_member(member: type[Loss]) -> tuple[CheckResult, ...]:
    from kdcli.loss_contract.check import CheckResult, check_contract

    try:
        loss = instantiate_loss(member, {})
    except UsageError as error:
        return (CheckResult("defaults", "failed", f"cannot be created with default options: {error.message}"),)
    return check_contract(loss)
