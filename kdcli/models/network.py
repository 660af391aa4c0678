"""The interface between distillation and a model of any file format."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Self

import numpy as np

from kdcli.errors import ModelError, UsageError, did_you_mean, find_nearest_name
from kdcli.lazy import ops
from kdcli.models.preprocessing import PixelScale, Preprocessing, scale_to_json
from kdcli.tensors import Shape, Tensor, Tensors, Variable

# Below this a float32 probability carries no information, and its logarithm would diverge.
SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True, kw_only=True)
class TapRoles:
    """The names of taps by role.

    Args:
        secondary: taps that automatic pairing skips: dropout, padding, pooled maps, the inside of attention.
        linear: outputs of convolutions, dense layers, batch normalizations and sums, before any activation.
        normalized: outputs of batch normalizations.
        scores: attention scores (heads, queries, keys).
        blocks: outputs of transformer blocks, in order.
    """

    secondary: frozenset[str] = frozenset()
    linear: frozenset[str] = frozenset()
    normalized: frozenset[str] = frozenset()
    scores: frozenset[str] = frozenset()
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network.

    Args:
        name: unique among the inputs or outputs.
        shape: without the batch axis; None for an axis of any size.
        dtype: name of the type, such as `float32`.
    """

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Outputs:
    """What a network computes for a batch.

    Args:
        logits: (batch, ..., outputs); what they are is the network's `output_kind`.
        features: tap name → tensor (batch, ...).
    """

    logits: Tensor
    features: dict[str, Tensor]


class Network(ABC):
    """A model as distillation sees it, in whatever format it was saved.

    A subclass wraps one format: it sets the attributes below and computes outputs. Preprocessing and the
    interpretation of outputs are common to all; the `with_...` methods return a copy that shares the model.

    Attributes:
        name: what messages call the model.
        inputs: the model's inputs, before preprocessing is added.
        outputs: size of the last axis of `Outputs.logits`.
        output_shape: shape of the chosen output, without the batch axis.
        output_name: the chosen one of `all_outputs`.
        saved_kind: what the saved model returns: `logits`, `probabilities`, `sigmoid` or `values`.
        output_kind: what `Outputs.logits` are: `logits`, `sigmoid` (logits of independent outputs) or `values`.
        taps: inner tensors with a batch axis: name → shape without it.
        secondary: taps that automatic pairing skips, such as dropout, pooled maps and the output itself.
        roles: what is known about the taps.
        architecture: what the model is built of, in words; empty where that is unknown.
        preprocessing: input name → how a raw example becomes this input.
        notes: sentences for the plan.
        batch: the only batch size that the model accepts; None for any.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: int
    output_shape: Shape
    saved_kind: str = "logits"
    output_kind: str = "logits"
    output_name: str = "output"
    all_outputs: tuple[TensorSpec, ...] = ()
    taps: Mapping[str, Shape] = MappingProxyType({})
    secondary: frozenset[str] = frozenset()
    roles: TapRoles = TapRoles()
    architecture: str = ""
    preprocessing: Mapping[str, Preprocessing] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    batch: int | None = None
    # The last activation in words, where logits are read in front of it rather than computed from the output.
    _bare: str | None = None
    # Whether a single sigmoid is read as two classes.
    _one_sigmoid = False
    # Which outputs are used, in which order; None for all.
    _columns: tuple[int, ...] | None = None

    @property
    def parameters(self) -> int | None:
        """Number of weights; None where the format does not tell."""
        return None

    @property
    def variables(self) -> list[Variable]:
        """Every variable, including the states of random generators."""
        return []

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables that training changes."""
        return []

    @property
    def activation(self) -> str | None:
        """Activation of the layer that computes the output; None where it is unknown."""
        return None

    @property
    def has_one_sigmoid(self) -> bool:
        """Whether a single sigmoid output is read as two classes."""
        return self._one_sigmoid

    @property
    def has_regularization(self) -> bool:
        """Whether the model has its own regularization losses."""
        return False

    def compute_regularization(self) -> Tensor:
        """Sum of the model's own regularization losses after a forward pass, a scalar."""
        return 0.0

    @property
    def logits_from(self) -> str:
        """How logits are obtained from the saved model, in words."""
        if self.saved_kind in ("logits", "values"):
            return "output"
        return (
            f"before the {self._bare}" if self._bare else f"log of the output, clipped at {SMALLEST_PROBABILITY:g}"
        )

    @property
    def reading(self) -> dict[str, str]:
        """How raw examples are preprocessed and logits obtained; equal texts give equal outputs.

        These texts are part of the key of the teacher cache: changing one invalidates its entries.
        """
        inputs = {spec.name: [spec.shape, spec.dtype] for spec in self.inputs}
        steps = {name: asdict(one) for name, one in self.preprocessing.items()}
        columns = "all" if self._columns is None else ",".join(map(str, self._columns))
        return {
            "inputs": json.dumps(inputs),
            "preparation": json.dumps(steps, sort_keys=True, default=scale_to_json),
            "output": f"{self.output_name}: {self.saved_kind} as {self.output_kind}, {self.logits_from}",
            "columns": f"{columns}{' of one sigmoid as two classes' if self._one_sigmoid else ''}",
        }

    def close(self) -> None:
        """Release what runs outside of this process; most networks have nothing to release."""
        return

    @abstractmethod
    def compute(self, raw: Tensors, *, taps: Sequence[str] = (), training: bool = False) -> Outputs:
        """Preprocess a raw batch and compute its logits and features.

        Args:
            raw: input name → raw examples (batch, ...).
            taps: names of the features to return.
            training: whether layers run in training mode.
        """

    @abstractmethod
    def compute_saved_output(self, raw: Tensors) -> Tensor:
        """Preprocess a raw batch and compute what the saved model returns, last activation included."""

    def compute_before_weights(self, raw: Tensors) -> np.ndarray | None:
        """Preprocess a raw batch and compute what enters the first layer with weights.

        Args:
            raw: input name → raw examples (batch, ...).

        Returns:
            (batch, ...), or None where the network cannot tell.
        """
        return None

    def with_output_kinds(self, saved: str, *, output_kind: str) -> Self:
        """A copy whose saved model is taken to return `saved`, and whose logits are of `output_kind`."""
        other = copy.copy(self)
        other.saved_kind, other.output_kind = saved, output_kind
        return other

    def as_two_classes(self) -> Self:
        """A copy that reads a single sigmoid z as two classes with logits (0, z): the same probabilities."""
        other = copy.copy(self)
        other._one_sigmoid = True
        other.outputs = 2
        other.output_kind = "logits"
        return other

    def with_outputs_like(self, other: Network) -> Self:
        """A copy that interprets its output as another network does: output kinds and columns."""
        same = self.with_output_kinds(other.saved_kind, output_kind=other.output_kind)
        same.outputs = other.outputs
        same._one_sigmoid, same._columns = other._one_sigmoid, other._columns
        return same

    def with_columns(self, columns: Sequence[int]) -> Self:
        """A copy with some of the outputs, in the given order."""
        other = copy.copy(self)
        other._columns = tuple(columns)
        other.outputs = len(other._columns)
        shown = ", ".join(str(column) for column in other._columns[:10])
        more = ", ..." if len(other._columns) > 10 else ""
        note = f"columns {shown}{more} of {self.outputs} outputs are the data's classes"
        other.notes = (*self.notes, note)
        return other

    def with_preprocessing(self, preprocessing: Mapping[str, Preprocessing]) -> Self:
        """A copy that preprocesses each raw input as given, by input name."""
        other = copy.copy(self)
        other.preprocessing = dict(preprocessing)
        return other

    def with_scale(self, scale: PixelScale) -> Self:
        """A copy that scales its images differently."""
        return self.with_preprocessing({name: one.with_scale(scale) for name, one in self.preprocessing.items()})

    def _as_logits(self, output: Tensor) -> Tensor:
        """Logits from the saved model's output, or from what was read in front of its last activation."""
        if self.saved_kind in ("probabilities", "sigmoid") and not self._bare:
            output = ops.clip(ops.cast(output, "float32"), SMALLEST_PROBABILITY, 1.0)
            complement = ops.clip(1.0 - output, SMALLEST_PROBABILITY, 1.0)
            output = ops.log(output) - (ops.log(complement) if self.saved_kind == "sigmoid" else 0.0)
        if self._one_sigmoid:
            output = ops.concatenate([ops.zeros_like(output), output], axis=-1)
        return output if self._columns is None else ops.take(output, self._columns, axis=-1)


class UnusableModel(ModelError):
    """A model that opens, but cannot be used for distillation: an axis of unknown size, or no batch axis."""


class AmbiguousOutput(UsageError):
    """A model with several outputs, none of which was chosen."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(
            f"{name} has {len(names)} outputs: {', '.join(names)}", hint=f"--output {names[0]} chooses one"
        )
        self.names = tuple(names)


def choose_output(names: Sequence[str], option: str | None, *, name: str) -> str:
    """Choose the output of a model: the one that the user named, or else the only one.

    Args:
        names: names of all outputs.
        option: the name that the user gave, or None.
        name: what messages call the model.

    Raises:
        UsageError: no such output, or several outputs and no name.
    """
    if option is not None and option not in names:
        suggestion = did_you_mean(option, names)
        raise UsageError(f"{name} has no output {option!r}; {suggestion}outputs: {', '.join(names)}")
    if option is None and len(names) > 1:
        raise AmbiguousOutput(name, names)
    return names[0] if option is None else option


def check_taps(network: Network, names: Sequence[str], *, role: str, loss: str) -> None:
    """Refuse tap names that a network does not have.

    Args:
        network: the teacher or the student.
        names: names of taps.
        role: `teacher` or `student`.
        loss: label of the loss, for the message.

    Raises:
        UsageError: an unknown name, with the nearest one and the list of taps.
    """
    for name in names:
        if name not in network.taps:
            suggestion = did_you_mean(name, network.taps)
            known = ", ".join(network.taps)
            raise UsageError(
                f"losses.{loss}: the {role} ({network.name}) has no layer {name!r}; {suggestion}layers: {known}",
                hint=_suggest_setting(network, name, names, setting=f"losses.{loss}.{role}_layer"),
            )


def _suggest_setting(network: Network, name: str, names: Sequence[str], *, setting: str) -> str:
    """The `--set` option with the nearest tap in place of an unknown one."""
    nearest = [find_nearest_name(name, network.taps) or "NAME" if one == name else one for one in names]
    return f"--set {setting}={nearest[0]}" if len(nearest) == 1 else f"--set '{setting}=[{', '.join(nearest)}]'"
