"""Contrastive representation: student and teacher embed the same example alike, different ones differently."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.formulas.convention import require_parts
from kdcli.formulas.layer_pairs import pair_features
from kdcli.formulas.layers import apply_layers, make_dense
from kdcli.formulas.negatives import sample_negatives
from kdcli.formulas.vectors import flatten_examples, normalize_length
from kdcli.lazy import keras, ops, tf
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.spec import PositiveFloat, Weight
from kdcli.tensors import Tensor, Variable

# Added to the noise probability, as in the published code.
_EPSILON = 1e-7
# With at most this many examples per negative, a product with the whole memory is faster.
_EXAMPLES_PER_NEGATIVE = 16


class Contrastive(FeatureLoss):
    """−log h(own) − Σ log(1 − h(other)) of the student against the teacher's memory, and the other way round.

    h(i) = P(i) / (P(i) + K / n + 1e-7) with P(i) = exp(v · m(i) / τ) / Z, where v is a linear embedding of one
    side's feature, of length 1, m(i) is the other side's latest embedding of example i, K is the number of
    negatives and n the number of examples. Z is n times the mean of the exponentials in the first batch, for each
    side. Afterwards the memory of the batch's examples becomes m ← unit(momentum · m + (1 − momentum) · v).
    Negatives are drawn anew for each example, from all classes; if `negatives` is not smaller than the number of
    other examples, all of them are used. Pairs are summed. Published runs compare the vectors after pooling; a map
    is flattened.

    Shapes: student, teacher (batch, ...); index (batch,) places in the memory → (batch,).

    Args:
        negatives: number of negatives per example, at most all other examples.
        tau: τ, the divisor of the similarities.
        momentum: fraction of a memory entry that remains when its example is seen again.
        embed: size of the embeddings.

    Example:
        >>> import kdcli
        >>> kdcli.losses.make("contrastive", negatives=4096).tau
        0.07
    """

    known_as: ClassVar[str] = "CRD"
    paper: ClassVar[str] = "Tian et al. 2019, arXiv:1910.10699"
    # The published code compares the vectors after pooling.
    axes: ClassVar[tuple[int, ...]] = (1, 3, 2)
    keeps: ClassVar[tuple[str, ...]] = ("memory",)
    one_device: ClassVar[bool] = True
    zero_when_equal: ClassVar[bool] = False

    kind: Literal["contrastive"] = "contrastive"
    weight: Weight = 0.8
    negatives: Annotated[int, Field(ge=1)] = 16384
    tau: PositiveFloat = 0.07
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    embed: Annotated[int, Field(ge=1)] = 128

    def build(self, given: Given) -> Parts:
        """Build two embeddings and two memories for each pair, and the random state of the negatives."""
        draws = keras.random.SeedGenerator(given.seed)
        embeddings, memories = [], []
        for shapes in zip(given.student, given.teacher, strict=True):
            layers = [make_dense(self.embed) for _ in shapes]
            for one, shape in zip(layers, shapes, strict=True):
                one.build((None, math.prod(side or 1 for side in shape)))
            embeddings.append(layers)
            memories.append(self._make_memory(given.examples, draws))
        return Parts({"embeddings": embeddings}, {"memories": memories, "draws": draws})

    def __call__(
        self,
        *,
        student: Tensor,
        teacher: Tensor,
        index: Tensor = None,
        contrast: Tensor = None,
        parts: Parts = NO_PARTS,
        **_: Any,
    ) -> Tensor:
        """Return the loss against the memories, per example, then update the memories.

        Args:
            student, teacher: features, or lists of them.
            index: memory indices (batch,).
            contrast: memory indices (batch, 1 + K), the example's own first; drawn when omitted.
            parts: embeddings and memories.
        """
        own = require_parts(parts, self)
        if index is None:
            raise ValueError(f"{self.kind} needs index=, the memory index of each example")
        index = ops.cast(index, "int32")
        total = 0.0
        embeddings_and_memories = zip(own.trained["embeddings"], own.kept["memories"], strict=True)
        for (ours, theirs), (layers, memory) in zip(
            pair_features(student, teacher), embeddings_and_memories, strict=True
        ):
            sides = zip(layers, (ours, ops.stop_gradient(theirs)), strict=True)
            embedded, target = (
                normalize_length(apply_layers([one], flatten_examples(side))) for one, side in sides
            )
            places = contrast
            if places is None:
                count = memory["student"].shape[0]
                places = sample_negatives(index, self.negatives, examples=count, draws=own.kept["draws"])
            total = total + self._loss(embedded, target, index, ops.cast(places, "int32"), memory)
        return total

    def _loss(
        self, student: Tensor, teacher: Tensor, index: Tensor, contrast: Tensor, memory: Mapping[str, Any]
    ) -> Tensor:
        """The loss of both sides for given negatives.

        Args:
            student, teacher: embeddings (batch, embed).
            index: memory indices (batch,).
            contrast: memory indices (batch, 1 + K), the example's own first.
            memory: memory of this pair.
        """
        examples = memory["student"].shape[0]
        exponents = [
            _similarities(embedding, bank, contrast) / self.tau
            for embedding, bank in ((student, memory["teacher"]), (teacher, memory["student"]))
        ]
        constants = _constants(exponents, memory)
        total = sum(_against_noise(side - constants[number], examples) for number, side in enumerate(exponents))
        for embedding, bank in ((student, memory["student"]), (teacher, memory["teacher"])):
            self._update(bank, index, ops.stop_gradient(embedding))
        return total

    def _make_memory(self, examples: int, draws: Any) -> dict[str, Any]:
        bound = math.sqrt(3 / self.embed)
        start = keras.initializers.RandomUniform(-bound, bound, seed=draws)
        shape = (examples, self.embed)
        memory = {
            name: keras.Variable(start, shape=shape, trainable=False, name=f"{name}_memory")
            for name in ("student", "teacher")
        }
        # log Z of the student against the teacher's memory and the reverse; `known` is 1 once they are set.
        for name, size in (("log_constants", (2,)), ("known", ())):
            memory[name] = keras.Variable("zeros", shape=size, trainable=False, name=name)
        return memory

    def _update(self, bank: Variable, index: Tensor, embedding: Tensor) -> None:
        old = ops.take(bank, index, axis=0)
        new = normalize_length(self.momentum * old + (1 - self.momentum) * ops.cast(embedding, bank.dtype))
        # Where an example occurs twice in the batch, all its rows carry the value of the last one.
        same = ops.cast(index[:, None] == index[None], "int32")
        last = ops.argmax(same * ops.arange(1, same.shape[1] + 1, dtype="int32"), axis=1)
        bank.value.scatter_update(tf.IndexedSlices(ops.take(new, last, axis=0), index))


def _similarities(embedding: Tensor, bank: Variable, contrast: Tensor) -> Tensor:
    """Products (batch, 1 + K) of each embedding with its memory entries."""
    bank = ops.cast(ops.convert_to_tensor(bank), embedding.dtype)
    if bank.shape[0] > _EXAMPLES_PER_NEGATIVE * contrast.shape[1]:
        return ops.einsum("be,bke->bk", embedding, ops.take(bank, contrast, axis=0))
    # The same values, without a copy of the memory for each example.
    return tf.gather(ops.matmul(embedding, ops.transpose(bank)), contrast, batch_dims=1)


def _constants(exponents: list[Tensor], memory: Mapping[str, Any]) -> Tensor:
    """log Z of both sides, set by the first batch."""
    examples, log_constants, known = memory["student"].shape[0], memory["log_constants"], memory["known"]
    found = [ops.logsumexp(side) + math.log(examples / math.prod(side.shape)) for side in exponents]
    constants = ops.where(known > 0, ops.cast(log_constants, found[0].dtype), ops.stop_gradient(ops.stack(found)))
    log_constants.assign(constants)
    known.assign(ops.ones_like(known))
    return constants


def _against_noise(logarithms: Tensor, examples: int) -> Tensor:
    """The loss of one side from log P (batch, 1 + K), in a form in which no exponential overflows."""
    noise = max(logarithms.shape[1] - 1, 1) / examples
    own, others = logarithms[:, 0], logarithms[:, 1:]
    least = math.log(noise + _EPSILON)
    taken_for_own = ops.softplus(others - least) + math.log1p(_EPSILON / noise)
    return ops.softplus(least - own) + ops.sum(taken_for_own, axis=1)
