"""What distillation needs of a model, whatever it was saved as."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from kdcli.errors import ModelError, UsageError, did_you_mean, find_nearest_name
from kdcli.lazy import ops
from kdcli.models.keras.tap_roles import TapRoles
from kdcli.models.preprocessing import PixelScale, Preprocessing, scale_to_json

# Below this a probability carries no information in float32, and its logarithm would run away.
SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network: its shape without the batch axis (None: any size) and its type."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Outputs:
    """What a network says to a batch.

    Args:
        logits: (batch, ..., outputs): logits, the logits of sigmoids, or values (the network's `output_kind`).
        features: tap name → (batch, ...).
    """

    logits: Any
    features: dict[str, Any]


class Network(ABC):
    """A model as distillation sees it, whatever it was saved as.

    A subclass opens one kind of model, sets the attributes below and answers. How raw examples go in and how
    outputs are read is the same for all: the methods that change it give a copy that shares everything else.

    `output_kind` tells what `Answer.logits` are: `logits`, `sigmoid` (logits of independent outputs) or `values`.
    `saved_kind` is what the saved model itself returns, `outputs` and `output_shape` (without the batch axis)
    its size; `output_name` is the one of `all_outputs` that was chosen. `taps` are the inner tensors that carry
    the batch axis, with their shapes without it; `secondary` those that automatic pairing passes over: dropout,
    pooled maps, what makes the output; `roles` tell more of them where it is known. `architecture` is what it is
    built of, in words, empty where that is not known. `notes` are sentences for the plan.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: int
    output_shape: tuple[int | None, ...]
    saved_kind: str = "logits"
    output_kind: str = "logits"
    output_name: str = "output"
    all_outputs: tuple[TensorSpec, ...] = ()
    taps: Mapping[str, tuple[int | None, ...]] = MappingProxyType({})
    secondary: frozenset[str] = frozenset()
    roles: TapRoles = TapRoles()
    architecture: str = ""
    preprocessing: Mapping[str, Preprocessing] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    # The only batch size that it takes; None for any.
    batch: int | None = None
    # What the logits are read before, in words, where they need not be computed from the output.
    _bare: str | None = None
    _one_sigmoid = False
    _columns: tuple[int, ...] | None = None

    @property
    def parameters(self) -> int | None:
        """How many weights it has; None where its format does not tell."""
        return None

    @property
    def variables(self) -> list[Any]:
        """Every variable, the states of random generators included."""
        return []

    @property
    def trainable_variables(self) -> list[Any]:
        """What training changes."""
        return []

    @property
    def activation(self) -> str | None:
        """The activation of the layer whose result is the output; None where it is not known."""
        return None

    @property
    def has_one_sigmoid(self) -> bool:
        """Whether its only output, the logit of a sigmoid, is read as two classes."""
        return self._one_sigmoid

    @property
    def has_regularization(self) -> bool:
        """Whether the model brings penalties of its own."""
        return False

    def compute_regularization(self) -> Any:
        """The model's own penalties after an answer, a scalar."""
        return 0.0

    @property
    def logits_from(self) -> str:
        """How logits are got from what the saved model returns, in words."""
        if self.saved_kind in ("logits", "values"):
            return "output"
        return (
            f"before the {self._bare}" if self._bare else f"log of the output, clipped at {SMALLEST_PROBABILITY:g}"
        )

    @property
    def reading(self) -> dict[str, str]:
        """How raw examples go in and how logits are read, in words that tell one way from another."""
        inputs = {spec.name: [spec.shape, spec.dtype] for spec in self.inputs}
        prepared = {name: asdict(preparation) for name, preparation in self.preprocessing.items()}
        columns = "all" if self._columns is None else ",".join(map(str, self._columns))
        return {
            "inputs": json.dumps(inputs),
            "preparation": json.dumps(prepared, sort_keys=True, default=scale_to_json),
            "output": f"{self.output_name}: {self.saved_kind} as {self.output_kind}, {self.logits_from}",
            "columns": f"{columns}{' of one sigmoid as two classes' if self._one_sigmoid else ''}",
        }

    def close(self) -> None:
        """Let go of what runs outside of this process; most networks have nothing there."""
        return

    @abstractmethod
    def compute(self, raw: Mapping[str, Any], *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """Prepare raw inputs and answer them."""

    @abstractmethod
    def compute_saved_output(self, raw: Mapping[str, Any]) -> Any:
        """What the saved model itself returns, its last activation included."""

    def compute_before_weights(self, raw: Mapping[str, Any]) -> np.ndarray | None:
        """What raw examples have become where the first layer with weights takes them.

        Args:
            raw: by input name, (batch, ...) each.

        Returns:
            (batch, ...), or None where the network does not tell.
        """
        return None

    def with_output_kinds(self, kind: str, *, output_kind: str) -> Self:
        """The same network with its output understood as `kind` and its logits as those of `output_kind`."""
        other = copy.copy(self)
        other.saved_kind, other.output_kind = kind, output_kind
        return other

    def as_two_classes(self) -> Self:
        """A single sigmoid z as the two classes (0, z): the same probabilities, in the form of all others."""
        other = copy.copy(self)
        other._one_sigmoid = True
        other.outputs = 2
        other.output_kind = "logits"
        return other

    def with_outputs_like(self, other: Network) -> Self:
        """The same network with its output read as another one's: its kind, its head, its columns."""
        same = self.with_output_kinds(other.saved_kind, output_kind=other.output_kind)
        same.outputs = other.outputs
        same._one_sigmoid, same._columns = other._one_sigmoid, other._columns
        return same

    def with_columns(self, columns: Sequence[int]) -> Self:
        """The same network with some of its outputs, in another order."""
        other = copy.copy(self)
        other._columns = tuple(columns)
        other.outputs = len(other._columns)
        shown = ", ".join(str(column) for column in other._columns[:10])
        more = ", ..." if len(other._columns) > 10 else ""
        other.notes = (*self.notes, f"of {self.outputs} outputs the columns {shown}{more} are the data's classes")
        return other

    def with_preprocessing(self, preparations: Mapping[str, Preprocessing]) -> Self:
        """The same network behind a preparation of each raw input."""
        other = copy.copy(self)
        other.preprocessing = dict(preparations)
        return other

    def with_scale(self, scale: PixelScale) -> Self:
        """The same network behind another scaling of its images."""
        return self.with_preprocessing({n: p.with_scale(scale) for n, p in self.preprocessing.items()})

    def _as_logits(self, output: Any) -> Any:
        """Logits from what the model returned, or from what it returned before its last activation."""
        if self.saved_kind in ("probabilities", "sigmoid") and not self._bare:
            output = ops.clip(ops.cast(output, "float32"), SMALLEST_PROBABILITY, 1.0)
            odds = ops.clip(1.0 - output, SMALLEST_PROBABILITY, 1.0)
            output = ops.log(output) - (ops.log(odds) if self.saved_kind == "sigmoid" else 0.0)
        if self._one_sigmoid:
            output = ops.concatenate([ops.zeros_like(output), output], axis=-1)
        return output if self._columns is None else ops.take(output, self._columns, axis=-1)


class UnusableModel(ModelError):
    """A model that opens, in a form that distillation cannot use: an open shape, no batch axis."""


class AmbiguousOutput(UsageError):
    """A model with several outputs, none of which was chosen."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(
            f"{name} has {len(names)} outputs: {', '.join(names)}", hint=f"--output {names[0]} chooses one"
        )
        self.names = tuple(names)


def choose_output(names: Sequence[str], option: str | None, *, name: str) -> str:
    """The output that is meant: the one that was named, else the only one.

    Args:
        names: of all outputs.
        option: of one of them, or None.
        name: of the model, for messages.

    Raises:
        UsageError: no such output, or several and none named.
    """
    if option is not None and option not in names:
        raise UsageError(
            f"{name} has no output {option!r}; {did_you_mean(option, names)}outputs: {', '.join(names)}"
        )
    if option is None and len(names) > 1:
        raise AmbiguousOutput(name, names)
    return names[0] if option is None else option


def check_taps(network: Network, names: Sequence[str], *, role: str, loss: str) -> None:
    """Refuse a tap that does not exist.

    Raises:
        UsageError: with the nearest name and the list.
    """
    for name in names:
        if name not in network.taps:
            suggestion = did_you_mean(name, network.taps)
            known = ", ".join(network.taps)
            raise UsageError(
                f"losses.{loss}: the {role} ({network.name}) has no layer {name!r}; {suggestion}layers: {known}",
                hint=_instead(network, name, names, setting=f"losses.{loss}.{role}_layer"),
            )


def _instead(network: Network, name: str, names: Sequence[str], *, setting: str) -> str:
    """The setting with the tap that was probably meant, where one is near."""
    right = [find_nearest_name(name, network.taps) or "NAME" if one == name else one for one in names]
    return f"--set {setting}={right[0]}" if len(right) == 1 else f"--set '{setting}=[{', '.join(right)}]'"
