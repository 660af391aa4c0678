"""What is exported: a model with what it answers to real examples, or without data to random inputs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset, with_outputs
from kdcli.data.examples import ONLY, Examples
from kdcli.data.order import limited
from kdcli.errors import ModelError
from kdcli.evaluation.parity import Reference, answered, compare, model_answers
from kdcli.events import OnEvent, Progress
from kdcli.models.keras_network import KerasNetwork
from kdcli.models.opening import open_file
from kdcli.models.preparation import Preparation
from kdcli.workflows.asking import Asked
from kdcli.workflows.candidates import open_candidate
from kdcli.workflows.given import given_examples
from kdcli.workflows.networks import choice_of

# Training examples that an 8-bit file is calibrated with, and inputs that are drawn where there is no data.
SHOWN, DRAWN = 200, 32


@dataclass(frozen=True)
class Shipped:
    """A model that is going to be exported.

    Args:
        network: behind its preparation; without data it takes what the model itself takes.
        examples: that files are compared on.
        reference: its own answers to them.
        shown: raw training examples, by input name; None without data.
        class_names: in label order; empty where nothing has a name.
        accuracy: of the model on the examples; None without labels or decisions.
        dataset: that the examples are of; None without data.
    """

    network: KerasNetwork
    examples: Examples
    reference: Reference
    shown: dict[str, np.ndarray] | None = None
    class_names: tuple[str, ...] = ()
    accuracy: float | None = None
    dataset: Dataset | None = None


def ship_with_data(
    given: Path, *, asked: Asked, split: str, limit: float | None, batch_size: int, on_event: OnEvent
) -> Shipped:
    """A model behind its preparation, with its answers to a split.

    Args:
        given: a file or a run directory.
        split, limit: what it is compared on.

    Raises:
        DataError: the data cannot be right.
        ModelError: the model does not fit the data.
    """
    dataset, examples = given_examples(asked, split=split, limit=limit, on_event=on_event)
    with ExitStack() as opened:
        candidate = open_candidate(
            given, "student", asked=asked, dataset=dataset, threads=None, opened=opened, on_event=on_event
        )
    network = exportable(candidate.network)
    dataset = with_outputs(dataset, network.outputs)

    def told(done: int) -> None:
        on_event(Progress("evaluation", done, len(examples), "examples"))

    outputs = answered(model_answers(network), examples, batch_size=batch_size, on_batch=told)
    reference = Reference(network, outputs, examples.all_labels(), dataset.task)
    train = dataset.train
    seen = train.take(limited(train.all_labels(), len(train), limit=SHOWN, seed=asked.recipe.data_seed))
    names = dataset.class_names if dataset.task != "regression" else ()
    return Shipped(network, examples, reference, seen, names, compare(outputs, reference).accuracy, dataset)


def exportable(network: Any) -> KerasNetwork:
    """Refuse what no format can be written from.

    Raises:
        ModelError: no Keras model, one of several outputs, or chosen columns.
    """
    if not isinstance(network, KerasNetwork):
        raise ModelError(
            f"{network.name}: kd export writes Keras models, and this is none",
            hint="a student that is going to be exported is trained from a .keras file, not from a SavedModel",
        )
    return network


def ship_without_data(file: Path, *, asked: Asked, on_event: OnEvent) -> Shipped:
    """A model as it is, with its answers to seeded random inputs: normal, or for integers 0 and 1.

    Raises:
        ModelError: several inputs, or an input of open size.
    """
    choice = choice_of(asked.recipe.student)
    network = exportable(open_file(file, trust=asked.trust, choice=choice, on_event=on_event).network)
    if len(network.inputs) != 1:
        raise ModelError(f"{file}: has {len(network.inputs)} inputs; kd export writes models with one")
    spec = network.inputs[0]
    if None in spec.shape:
        sides = "×".join("any" if side is None else str(side) for side in spec.shape)
        raise ModelError(
            f"{file}: takes inputs of any size ({sides}), a file needs one", hint="--data D says which"
        )
    shape: tuple[int, ...] = tuple(side for side in spec.shape if side is not None)
    network = network.with_preparations({ONLY: Preparation(shape, spec.dtype, shape, spec.dtype, "raw")})
    random = np.random.default_rng(asked.recipe.data_seed)
    drawn: Any = random.standard_normal((DRAWN, *shape))
    if not spec.dtype.startswith(("float", "bfloat")):
        drawn = drawn > 0
    inputs = drawn.astype(np.float32 if spec.dtype == "bfloat16" else spec.dtype)
    examples = Examples("random", {ONLY: inputs}, None, None, np.arange(DRAWN))
    outputs = model_answers(network)(examples.take(np.arange(DRAWN)))
    return Shipped(network, examples, Reference(network, outputs))
