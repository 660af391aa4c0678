"""What distillation needs of a model, whatever it was saved as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kdcli.errors import UsageError, did_you_mean
from kdcli.models.preparation import Preparation


@dataclass(frozen=True)
class InputSpec:
    """One input of a network: its shape without the batch axis (None: any size) and its type."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Answer:
    """What a network says to a batch.

    Args:
        logits: (batch, ..., outputs): logits, the logits of sigmoids, or values (the network's `head`).
        features: tap name → (batch, ...).
    """

    logits: Any
    features: dict[str, Any]


class Network(Protocol):
    """A model as distillation sees it.

    `head` tells what `Answer.logits` are: `logits`, `sigmoid` (logits of independent outputs) or `values`.
    `output_kind` is what the saved model itself returns, `logits_from` how logits were got from it.
    `taps` are the inner tensors that carry the batch axis, with their shapes without it; `secondary` those
    that automatic pairing passes over: dropout, pooled maps, what makes the output.
    """

    name: str
    inputs: tuple[InputSpec, ...]
    outputs: int
    output_shape: tuple[int | None, ...]
    output_kind: str
    head: str
    taps: Mapping[str, tuple[int | None, ...]]
    secondary: frozenset[str]
    preparations: Mapping[str, Preparation]

    @property
    def logits_from(self) -> str:
        """How logits are got from what the saved model returns, in words."""
        ...

    @property
    def has_regularization(self) -> bool:
        """Whether the model brings penalties of its own."""
        ...

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        ...

    @property
    def variables(self) -> list[Any]:
        """Every variable, the states of random generators included."""
        ...

    @property
    def trainable_variables(self) -> list[Any]:
        """What training changes."""
        ...

    def answer(self, raw: Mapping[str, Any], *, taps: Sequence[str] = (), training: bool = False) -> Answer:
        """Prepare raw inputs and answer them."""
        ...

    def regularization(self) -> Any:
        """The model's own penalties after an answer, a scalar."""
        ...

    def with_scale(self, scale: str) -> Network:
        """The same network behind another scaling of its pictures."""
        ...


def check_taps(network: Network, names: Sequence[str], *, who: str, loss: str) -> None:
    """Refuse a tap that does not exist.

    Raises:
        UsageError: with the nearest name and the list.
    """
    for name in names:
        if name not in network.taps:
            suggestion = did_you_mean(name, network.taps)
            known = ", ".join(network.taps)
            raise UsageError(
                f"losses.{loss}: the {who} ({network.name}) has no layer {name!r}; {suggestion}layers: {known}",
                hint=f"--set losses.{loss}.{who}_layer={next(iter(network.taps), 'NAME')}",
            )
