"""Contrastive representation: student and teacher embed an example alike, and other examples differently."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdcli.formulas.connector import apply_layers, make_dense
from kdcli.formulas.convention import require_parts
from kdcli.formulas.matching import pair_features
from kdcli.formulas.random_directions import sample_negatives
from kdcli.formulas.rows import flatten_examples, normalize_length
from kdcli.lazy import keras, ops, tf
from kdcli.loss import NO_PARTS, FeatureLoss, Given, Parts
from kdcli.spec import PositiveFloat, Weight

# What the published code adds to the shares of the noise.
TINY = 1e-7
# Up to this many times as many examples as are drawn, a product with the whole memory is the faster way.
WHOLE = 16


class Contrastive(FeatureLoss):
    """−log h(own) − Σ log(1 − h(other)) of the student against the teacher's memory, and the other way round.

    h(i) = P(i) / (P(i) + K / n + 1e-7) with P(i) = exp(v · m(i) / τ) / Z: v is a linear embedding of length 1 of
    the one side's feature, m(i) the other side's embedding of example i as it was seen last, K the number of
    others, n that of all examples. Z is n times the mean of the exponentials in the first batch, for each side.
    Afterwards the memory of the batch's examples moves to m ← unit(momentum · m + (1 − momentum) · v). Others
    are drawn anew for each example, of any class; where as many are asked for as there are, all are taken.
    Pairs are summed. Published runs compare the vectors after pooling; a map is flattened.

    Shapes: student, teacher (batch, ...); index (batch,) places in the memory → (batch,).

    Args:
        negatives: others for each example, at most all of them.
        tau: τ, which divides the similarities.
        momentum: share of a memory that stays when its example is seen.
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
        """Two embeddings and two memories for each pair, and what draws the others."""
        draws = keras.random.SeedGenerator(given.seed)
        embeddings, memories = [], []
        for shapes in zip(given.student, given.teacher, strict=True):
            layers = [make_dense(self.embed) for _ in shapes]
            for one, shape in zip(layers, shapes, strict=True):
                one.build((None, math.prod(side or 1 for side in shape)))
            embeddings.append(layers)
            memories.append(self._memory(given.examples, draws))
        return Parts({"embeddings": embeddings}, {"memories": memories, "draws": draws})

    def __call__(
        self,
        *,
        student: Any,
        teacher: Any,
        index: Any = None,
        contrast: Any = None,
        parts: Parts = NO_PARTS,
        **_: Any,
    ) -> Any:
        """The loss against the memories, per example; they are then moved.

        Args:
            student, teacher: features, or lists of them.
            index: (batch,) places in the memory.
            contrast: (batch, 1 + K) places, the example itself and then the others; drawn when left out.
            parts: embeddings and memories.
        """
        owns = require_parts(parts, self)
        if index is None:
            raise ValueError(f"{self.kind} needs index: the place of each example in the memory")
        index = ops.cast(index, "int32")
        total = 0.0
        embeddings_and_memories = zip(owns.trained["embeddings"], owns.kept["memories"], strict=True)
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
                places = sample_negatives(index, self.negatives, examples=count, draws=owns.kept["draws"])
            total = total + self._loss(embedded, target, index, ops.cast(places, "int32"), memory)
        return total

    def _loss(self, student: Any, teacher: Any, index: Any, contrast: Any, memory: Mapping[str, Any]) -> Any:
        """Both sides of the loss for given others.

        Args:
            student, teacher: embeddings (batch, embed).
            index: places in the memory (batch,).
            contrast: (batch, 1 + K) places: the example itself, then the others.
            memory: of this pair.
        """
        examples = memory["student"].shape[0]
        exponents = [
            _similarities(embedding, bank, contrast) / self.tau
            for embedding, bank in ((student, memory["teacher"]), (teacher, memory["student"]))
        ]
        constants = _constants(exponents, memory)
        total = sum(_against_noise(side - constants[number], examples) for number, side in enumerate(exponents))
        for embedding, bank in ((student, memory["student"]), (teacher, memory["teacher"])):
            self._move(bank, index, ops.stop_gradient(embedding))
        return total

    def _memory(self, examples: int, draws: Any) -> dict[str, Any]:
        bound = math.sqrt(3 / self.embed)
        start = keras.initializers.RandomUniform(-bound, bound, seed=draws)
        shape = (examples, self.embed)
        memory = {
            name: keras.Variable(start, shape=shape, trainable=False, name=f"{name}_memory")
            for name in ("student", "teacher")
        }
        # log Z of the student against the teacher's memory and of the teacher against the student's; 1 when known.
        for name, size in (("log_constants", (2,)), ("known", ())):
            memory[name] = keras.Variable("zeros", shape=size, trainable=False, name=name)
        return memory

    def _move(self, bank: Any, index: Any, embedding: Any) -> None:
        old = ops.take(bank, index, axis=0)
        new = normalize_length(self.momentum * old + (1 - self.momentum) * ops.cast(embedding, bank.dtype))
        # An example that is there twice: each of its rows carries the value of the last one.
        same = ops.cast(index[:, None] == index[None], "int32")
        last = ops.argmax(same * ops.arange(1, same.shape[1] + 1, dtype="int32"), axis=1)
        bank.value.scatter_update(tf.IndexedSlices(ops.take(new, last, axis=0), index))


def _similarities(embedding: Any, bank: Any, contrast: Any) -> Any:
    """(batch, 1 + K): the product of each embedding with the memories at its places."""
    bank = ops.cast(ops.convert_to_tensor(bank), embedding.dtype)
    if bank.shape[0] > WHOLE * contrast.shape[1]:
        return ops.einsum("be,bke->bk", embedding, ops.take(bank, contrast, axis=0))
    # The same numbers, without a copy of all the memories for each example.
    return tf.gather(ops.matmul(embedding, ops.transpose(bank)), contrast, batch_dims=1)


def _constants(exponents: list[Any], memory: Mapping[str, Any]) -> Any:
    """log Z of both sides: from this batch where it is the first one."""
    examples, log_constants, known = memory["student"].shape[0], memory["log_constants"], memory["known"]
    found = [ops.logsumexp(side) + math.log(examples / math.prod(side.shape)) for side in exponents]
    constants = ops.where(known > 0, ops.cast(log_constants, found[0].dtype), ops.stop_gradient(ops.stack(found)))
    log_constants.assign(constants)
    known.assign(ops.ones_like(known))
    return constants


def _against_noise(logarithms: Any, examples: int) -> Any:
    """The loss of one side from log P (batch, 1 + K), in a form that no exponent overflows."""
    noise = max(logarithms.shape[1] - 1, 1) / examples
    own, others = logarithms[:, 0], logarithms[:, 1:]
    least = math.log(noise + TINY)
    taken_for_own = ops.softplus(others - least) + math.log1p(TINY / noise)
    return ops.softplus(least - own) + ops.sum(taken_for_own, axis=1)
