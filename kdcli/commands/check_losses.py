"""kd losses check: whether a kind of loss, a user's own as well, keeps what every loss keeps."""

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
    """Try the contract on a kind, with its default options.

    Args:
        what: a file that defines losses (all of them are tried), or a kind of the catalogue.

    Raises:
        kdcli.errors.UsageError: no such kind, or a file that fails or defines no loss.
    """
    members, paths = _members(what)
    # From here on there is work for TensorFlow: a file that fails never gets this far.
    from kdcli.setup.startup import start_tensorflow

    start_tensorflow(threads=None, seed=0, code=paths)
    from kdcli.loss_contract.checked_loss import CheckedLoss

    return tuple(CheckedLoss(kind_of(member), _points(member)) for member in members)


def _members(what: str | Path) -> tuple[list[type[Loss]], tuple[Path, ...]]:
    if not str(what).endswith(".py"):
        return [find(str(what))], ()
    own = find_kinds([Path(what)])
    members = list(own.of(Loss).values())
    if not members:
        raise UsageError(
            f"{what} defines no loss: no subclass of Loss or FeatureLoss", hint="docs/custom-kinds.md"
        )
    return members, own.paths


def _points(member: type[Loss]) -> tuple[CheckResult, ...]:
    from kdcli.loss_contract.check import CheckResult, check_contract

    try:
        loss = instantiate_loss(member, {})
    except UsageError as error:
        return (CheckResult("defaults", "failed", f"it cannot be made without options: {error.message}"),)
    return check_contract(loss)
