"""Shrink a model: leave out blocks, remove channels, split large layers, and measure batch statistics again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kdcli.errors import ModelError, UsageError
from kdcli.lazy import keras
from kdcli.models.keras.inputs import describe_inputs
from kdcli.runs.shrink_results import ShrunkLayer
from kdcli.shrinking.allocation import choose_removed
from kdcli.shrinking.batch_statistics import measure_batch_statistics
from kdcli.shrinking.blocks import Block, find_blocks, measure_changes, remove_blocks
from kdcli.shrinking.channels import trace_channels
from kdcli.shrinking.groups import Kept, find_groups
from kdcli.shrinking.importance import Batches, rank_channels
from kdcli.shrinking.low_rank import SplitLayer, split_dense_layers
from kdcli.shrinking.mask import mask_channels
from kdcli.shrinking.rebuild import bind_by_variable, rebuild
from kdcli.tensors import KerasModel
from kdcli.zoo.shrunk import MEASURED_IMPORTANCES, Shrunk

# The largest difference between the smaller model and the masked one, relative to the largest output.
_TOLERANCE = {"float32": 1e-3, "float64": 1e-6}
_LOW_PRECISION_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class ShrunkModel:
    """A smaller model.

    Args:
        model: the model, with the weights that stay.
        keep: the fraction of the channels that stayed.
        layers: the widths of the layers that make channels.
        blocks: the residual blocks that were left out.
        splits: the Dense layers that were split.
        unknown: layers that are not understood, with the reason; what touches them keeps its width.
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
        seed: int = 0,
        widths: Mapping[str, int] | None = None,
        rank_blocks: bool = False,
    ) -> None:
        self.settings, self._batches, self._kind, self._seed = settings, batches, kind, seed
        if batches is None and settings.importance in MEASURED_IMPORTANCES:
            raise UsageError(
                f"importance {settings.importance} is measured on examples, and there is no data",
                hint="--data D, or --importance l2",
            )
        self.found_blocks = self._find_blocks(model, rank=rank_blocks or settings.blocks > 0)
        self.blocks = tuple(self.found_blocks[: settings.blocks])
        self.model = remove_blocks(model, self.blocks)
        self.channels = trace_channels(self.model, free_normalized=settings.free_normalized)
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
        return rank_channels(
            self.channels,
            self.groups,
            criterion=self.settings.importance,
            batches=self._batches,
            kind=self._kind,
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
        """The number of parameters for a fraction of the channels, before Dense layers are split."""
        kept, bound = self.choose_kept(keep), bind_by_variable(self.channels)
        total = 0
        for variable in self.model.weights:
            shape = list(variable.shape)
            for binding in bound.get(id(variable), ()):
                shape[binding.axis] = kept.count(binding.vector)
            total += math.prod(shape)
        return total

    def build(self, keep: float) -> ShrunkModel:
        """Build the student for a fraction of the channels.

        Raises:
            ModelError: a layer cannot be built smaller, or the student differs from the masked model.
        """
        kept = self.choose_kept(keep)
        model = rebuild(self.channels, kept)
        if not self.settings.free_normalized:
            self._check(model, kept)
        model, splits = self._split(model)
        measured = 0 if self._batches is None else measure_batch_statistics(model, self._batches)
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
        """Compare the student with the full model in which nothing reads the removed channels."""
        masked = mask_channels(self.channels, kept)
        inputs = next(self._batches()) if self._batches is not None else make_random_inputs(self.model)
        outputs = zip(
            keras.tree.flatten(masked(inputs, training=False)),
            keras.tree.flatten(model(inputs, training=False)),
            strict=True,
        )
        for expected, found in outputs:
            expected, found = (np.asarray(keras.ops.cast(one, "float64")) for one in (expected, found))
            scale = max(float(np.abs(expected).max(initial=0)), 1e-12)
            difference = float(np.abs(expected - found).max(initial=0)) / scale
            tolerance = _TOLERANCE.get(self.model.compute_dtype, _LOW_PRECISION_TOLERANCE)
            if not difference <= tolerance:
                raise ModelError(
                    f"{self.model.name}: the smaller model differs from the full one without these channels by "
                    f"{difference:.2g} of the largest output: kd mishandles one of its layers",
                    hint="please report the architecture; kd inspect zoo:cnn --data D lists other students",
                )


def read_widths(model: KerasModel) -> dict[str, int]:
    """The number of channels of each layer that makes some, by the layer's path."""
    return {maker.name: len(maker.vector) for maker in trace_channels(model).makers.values()}


def make_random_inputs(model: KerasModel, examples: int = 4) -> Any:
    """Random inputs for a model, in the structure that it takes; sides of any size are 8, integers are 0 or 1."""
    generator = np.random.default_rng(0)

    def draw(tensor: Any) -> np.ndarray:
        shape = (examples, *(8 if side is None else side for side in tensor.shape[1:]))
        values = generator.standard_normal(shape)
        return (values if "float" in tensor.dtype else values > 0).astype(
            "float32" if tensor.dtype == "bfloat16" else tensor.dtype
        )

    structure, _ = describe_inputs(model, model.name)
    return keras.tree.pack_sequence_as(structure, [draw(tensor) for tensor in model.inputs])
