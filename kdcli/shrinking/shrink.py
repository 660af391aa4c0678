"""Shrink a model: leave out blocks, remove channels, split large layers, and measure batch statistics again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kdcli.errors import KdError, ModelError, UsageError, summarize_error
from kdcli.lazy import keras
from kdcli.models.keras.inputs import describe_inputs, get_fixed_batch_size
from kdcli.models.random_inputs import draw_input
from kdcli.runs.shrink_results import ShrunkLayer
from kdcli.shrinking.allocation import choose_removed
from kdcli.shrinking.batch_statistics import measure_batch_statistics
from kdcli.shrinking.blocks import Block, find_blocks, measure_changes, remove_blocks
from kdcli.shrinking.channels import trace_channels
from kdcli.shrinking.groups import Kept, find_groups
from kdcli.shrinking.importance import rank_channels
from kdcli.shrinking.low_rank import LOW_RANK_SUFFIX, SplitLayer, split_dense_layers
from kdcli.shrinking.mask import mask_channels
from kdcli.shrinking.rebuild import bind_by_variable, rebuild
from kdcli.tensors import Batches, KerasModel
from kdcli.zoo.shrunk import MEASURED_IMPORTANCES, Shrunk

# The largest difference between the smaller model and the masked one, relative to the largest output.
_TOLERANCE = {"float32": 1e-3, "float64": 1e-6}
_LOW_PRECISION_TOLERANCE = 0.1
# Random examples, for a model that takes any number.
_EXAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class ShrunkModel:
    """A smaller model.

    Args:
        model: the model, with the weights that stay.
        keep: the fraction of the channels that stayed.
        layers: the widths of the layers that make channels.
        blocks: the residual blocks that were left out.
        splits: the Dense layers that were split.
        unknown: layers that are not supported, with the reason; what touches them keeps its width.
        statistics: number of BatchNorm layers with re-estimated statistics.
    """

    model: KerasModel
    keep: float
    layers: tuple[ShrunkLayer, ...]
    blocks: tuple[Block, ...] = ()
    splits: tuple[SplitLayer, ...] = ()
    unknown: tuple[str, ...] = ()
    statistics: int = 0


class Shrinker:
    """Builds students of any size from one model, whose channels are ranked once.

    Args:
        model: functional or sequential; it is not changed.
        settings: how to shrink it.
        batches: preprocessed examples for `activation`, `taylor`, blocks and batch statistics; None without data.
        kind: output kind, for `taylor`: `logits`, `probabilities`, `sigmoid` or `values`.
        output: index of the output, for `taylor`.
        seed: RNG seed for `taylor` and `random`.
        widths: layer → number of channels against which `keep` counts; those of the model by default.
        rank_blocks: whether to measure residual blocks even if none is left out.

    Raises:
        ModelError: a subclassed model.
        UsageError: settings that need examples without examples, or more blocks than there are.
    """

    def __init__(
        self,
        model: KerasModel,
        settings: Shrunk,
        *,
        batches: Batches | None = None,
        kind: str = "logits",
        output: int = 0,
        seed: int = 0,
        widths: Mapping[str, int] | None = None,
        rank_blocks: bool = False,
    ) -> None:
        self.settings, self._batches = settings, batches
        self._kind, self._output, self._seed = kind, output, seed
        if batches is None and settings.importance in MEASURED_IMPORTANCES:
            raise UsageError(
                f"importance {settings.importance} is measured on examples, and there is no data",
                hint="--data D, or --importance l2",
            )
        self.found_blocks = self._find_blocks(model, rank=rank_blocks or settings.blocks > 0)
        self.blocks = tuple(self.found_blocks[: settings.blocks])
        self.model = remove_blocks(model, self.blocks)
        self.channels = trace_channels(self.model, free_normalized=settings.free_normalized)
        for maker in self.channels.makers.values():
            if maker.path[-1].endswith(LOW_RANK_SUFFIX):
                self.channels.slots.fix(maker.vector, "it is the rank of a split layer")
        self.groups = find_groups(self.channels)
        self._base = widths or {maker.name: len(maker.vector) for maker in self.channels.makers.values()}

    def _find_blocks(self, model: KerasModel, *, rank: bool) -> list[Block]:
        found = find_blocks(model)
        if self.settings.blocks > len(found):
            names = ", ".join(block.name for block in found) or "none"
            raise UsageError(
                f"blocks is {self.settings.blocks}, but {len(found)} residual blocks can be left out ({names})",
                hint=f"--blocks {len(found)}" if found else "--keep removes channels instead",
            )
        if self._batches is None:
            if self.settings.blocks:
                raise UsageError(
                    "blocks are ranked by how much they change examples, and there is no data", hint="--data D"
                )
            return found
        return measure_changes(model, found, self._batches) if rank else found

    @cached_property
    def importance(self) -> list[np.ndarray]:
        """The score of each channel, one array for each group."""
        with _convert_errors(self.model, "its channels cannot be ranked on examples"):
            return rank_channels(
                self.channels,
                self.groups,
                criterion=self.settings.importance,
                batches=self._batches,
                kind=self._kind,
                output=self._output,
                seed=self._seed,
            )

    def choose_kept(self, keep: float) -> Kept:
        """Choose the channels that stay for a fraction of them."""
        removed = choose_removed(
            self.groups,
            self.importance,
            keep=keep,
            allocation=self.settings.allocation,
            round_to=self.settings.round_to,
            widths=self._base,
        )
        return Kept(self.channels, removed)

    def count_parameters(self, keep: float) -> int:
        """The number of parameters of the student for a fraction of the channels."""
        if self.settings.rank is not None:
            return int(self.assemble(keep).count_params())
        kept, bound = self.choose_kept(keep), bind_by_variable(self.channels)
        total = 0
        for variable in self.model.weights:
            shape = list(variable.shape)
            for binding in bound.get(id(variable), ()):
                shape[binding.axis] = kept.count(binding.vector)
            total += math.prod(shape)
        return total

    def identify(self, keep: float) -> tuple[int, ...]:
        """The widths of the student for a fraction of the channels; students of equal widths are the same."""
        kept = self.choose_kept(keep)
        return tuple(kept.count(maker.vector) for maker in self.channels.makers.values())

    def build(self, keep: float, *, statistics: bool = True) -> ShrunkModel:
        """Build the student for a fraction of the channels.

        Args:
            keep: the fraction.
            statistics: whether to measure batch statistics again, if there are examples and something was removed.

        Raises:
            ModelError: a layer cannot be built smaller, or the student differs from the masked model.
        """
        kept = self.choose_kept(keep)
        model = rebuild(self.channels, kept)
        with _convert_errors(self.model, "the student cannot be compared with it"):
            self._check(model, kept)
        model, splits = self._split(model)
        changed = bool(kept.removed or splits or self.blocks or self.settings.side < 1)
        measured = 0
        if statistics and changed and self._batches is not None:
            measured = measure_batch_statistics(model, self._batches)
        return ShrunkModel(
            model=model,
            keep=keep,
            layers=tuple(self._describe_layers(kept)),
            blocks=self.blocks,
            splits=tuple(splits),
            unknown=tuple(f"{'/'.join(path)} {reason}" for path, reason in self.channels.unknown.items()),
            statistics=measured,
        )

    def assemble(self, keep: float) -> KerasModel:
        """Build the student for a fraction of the channels, unchecked: enough to measure its cost."""
        return self._split(rebuild(self.channels, self.choose_kept(keep)))[0]

    def _split(self, model: KerasModel) -> tuple[KerasModel, list[SplitLayer]]:
        return (model, []) if self.settings.rank is None else split_dense_layers(model, self.settings.rank)

    def _describe_layers(self, kept: Kept) -> list[ShrunkLayer]:
        layers = []
        for maker in self.channels.makers.values():
            reasons = self.channels.slots.get_reasons(maker.vector)
            before = self._base.get(maker.name, len(maker.vector))
            after = kept.count(maker.vector)
            layers.append(
                ShrunkLayer(
                    name=maker.name,
                    before=before,
                    after=after,
                    frozen=bool(reasons) and after == len(maker.vector),
                    reason="; ".join(reasons) or None,
                )
            )
        return layers

    def _check(self, model: KerasModel, kept: Kept) -> None:
        """Compare the student with the full model in which nothing reads the removed channels.

        First a copy from the same configuration is compared with the model itself: what the configuration does not
        say is lost in both.

        Raises:
            ModelError: they differ.
        """
        inputs = next(self._batches()) if self._batches is not None else make_random_inputs(self.model)
        everything = mask_channels(self.channels, Kept(self.channels, set()))
        self._refuse_difference(self.model, everything, inputs, "a copy made from the configuration of the model")
        if not self.settings.free_normalized:
            masked = mask_channels(self.channels, kept)
            self._refuse_difference(masked, model, inputs, "the smaller model")

    def _refuse_difference(self, model: KerasModel, other: KerasModel, inputs: Any, name: str) -> None:
        outputs = (keras.tree.flatten(one(inputs, training=False)) for one in (model, other))
        for expected, found in zip(*outputs, strict=True):
            expected, found = (np.asarray(keras.ops.cast(one, "float64")) for one in (expected, found))
            scale = max(float(np.abs(expected).max(initial=0)), 1e-12)
            difference = float(np.abs(expected - found).max(initial=0)) / scale
            tolerance = _TOLERANCE.get(self.model.compute_dtype, _LOW_PRECISION_TOLERANCE)
            if not difference <= tolerance:
                raise ModelError(
                    f"{self.model.name}: {name} differs from what it must compute by {difference:.2g} of the "
                    "largest output, so it cannot be shrunk",
                    hint="please report the architecture; kd inspect zoo:cnn --data D lists other students",
                )


def read_widths(model: KerasModel) -> dict[str, int]:
    """The number of channels of each layer that makes some, by the layer's path."""
    return {maker.name: len(maker.vector) for maker in trace_channels(model).makers.values()}


@contextmanager
def _convert_errors(model: KerasModel, what: str) -> Iterator[None]:
    """Turn whatever a model raises when it is called into an error that names the model.

    Raises:
        ModelError: the model cannot be called.
    """
    try:
        yield
    except KdError:
        raise
    except Exception as error:
        raise ModelError(
            f"{model.name}: {what}: {summarize_error(error):.300}",
            hint="kd inspect zoo:cnn --data D lists other students",
        ) from error


def make_random_inputs(model: KerasModel) -> Any:
    """Random inputs for a model, in the structure that it takes."""
    structure, specs = describe_inputs(model, model.name)
    if any(spec.dtype == "string" for spec in specs):
        raise ModelError(f"{model.name}: takes text, so it cannot be checked on random inputs", hint="--data D")
    generator, examples = np.random.default_rng(0), get_fixed_batch_size(model) or _EXAMPLES
    drawn = [draw_input(spec, examples, generator) for spec in specs]
    return keras.tree.pack_sequence_as(structure, drawn)
