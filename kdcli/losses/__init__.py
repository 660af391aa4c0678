"""The loss catalogue: one file for each published idea."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Field, ValidationError

from kdcli.errors import UsageError, did_you_mean
from kdcli.loss import Loss
from kdcli.losses.hint import Hint
from kdcli.losses.labels import Labels
from kdcli.losses.logit_mse import LogitMse
from kdcli.losses.soft_cross_entropy import SoftCrossEntropy
from kdcli.losses.soft_targets import SoftTargets
from kdcli.losses.variational_information import VariationalInformation

AnyLoss = Annotated[
    Labels | SoftTargets | SoftCrossEntropy | LogitMse | Hint | VariationalInformation,
    Field(discriminator="kind"),
]

KINDS: dict[str, type[Loss]] = {
    member.model_fields["kind"].default: member for member in get_args(get_args(AnyLoss)[0])
}

__all__ = ["KINDS", "AnyLoss", "find", "make"]


def make(kind: str, **options: Any) -> Loss:
    """A loss by its kind, to call directly; the mean of what it returns over the batch is the loss.

    Args:
        kind: a name that `kd losses ls` prints.
        options: what `kd losses show KIND` lists.

    Raises:
        kdcli.errors.UsageError: an unknown kind, or an unknown or impossible option.

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("soft_targets", temperature=2.0).temperature
        2.0
    """
    member = find(kind)
    try:
        return member(**options)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        name = str(detail["loc"][0]) if detail["loc"] else kind
        known = ", ".join(field for field in member.model_fields if field != "kind")
        message = f"{kind}: {name}: {detail['msg']}; options: {known}"
        raise UsageError(message, hint=f"kd losses show {kind}") from None


def find(kind: str) -> type[Loss]:
    """The class of a kind.

    Raises:
        kdcli.errors.UsageError: an unknown kind, with the nearest one.
    """
    if kind not in KINDS:
        suggestion = did_you_mean(kind, KINDS)
        raise UsageError(f"unknown loss {kind!r}; {suggestion}known: {', '.join(KINDS)}", hint="kd losses ls")
    return KINDS[kind]
