"""What is exported: a model with its outputs on real examples, or without data on random inputs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset, fill_outputs
from kdcli.data.examples import SINGLE_INPUT, Examples
from kdcli.data.order import limit_positions
from kdcli.errors import ModelError
from kdcli.evaluation.parity import Reference, compare_outputs, compute_outputs, make_model_function
from kdcli.events import OnEvent, Progress
from kdcli.models.files.open import open_file
from kdcli.models.inference import choose_exported_kind, prepare_for_export
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.saved_model.network import SavedModelNetwork, SignatureNetwork
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs.directory import find_run_recipe, find_run_role
from kdcli.setup.evaluated_models import open_evaluated_file
from kdcli.setup.named_models import open_examples
from kdcli.setup.open_models import choice_of
from kdcli.setup.request import Request

# Training examples that an 8-bit file is calibrated with, and inputs that are drawn where there is no data.
_CALIBRATION_EXAMPLES, _RANDOM_EXAMPLES = 200, 32


@dataclass(frozen=True)
class ExportSource:
    """A model that is going to be exported.

    Args:
        network: in float32 behind its preparation; without data it takes what the model itself takes.
        examples: that files are compared on.
        reference: its own answers to them.
        shown: raw training examples, by input name; None without data.
        class_names: in label order; empty where nothing has a name.
        accuracy: of the model on the examples; None without labels or decisions.
        dataset: that the examples are of; None without data.
    """

    network: Network
    examples: Examples
    reference: Reference
    shown: dict[str, np.ndarray] | None = None
    class_names: tuple[str, ...] = ()
    accuracy: float | None = None
    dataset: Dataset | None = None


def open_source_with_data(
    model: Path,
    *,
    request: Request,
    output_kind: str,
    split: str,
    limit: float | None,
    batch_size: int,
    on_event: OnEvent,
) -> ExportSource:
    """A model behind its preparation, with its outputs on a split.

    Args:
        model: a file or a run directory.
        output_kind: `teacher`, `probabilities` or `logits`, for `inference.shipped_kind`.
        split, limit: what it is compared on.

    Raises:
        DataError: the data cannot be right.
        ModelError: the model does not fit the data.
    """
    dataset, examples = open_examples(request, split=split, limit=limit, on_event=on_event)
    with ExitStack() as opened:
        candidate = open_evaluated_file(
            model, "student", request=request, dataset=dataset, threads=None, opened=opened, on_event=on_event
        )
    network = require_exportable(candidate.network)
    kind = choose_exported_kind(network, output_kind, teachers=_teacher_kinds(model))
    dataset = fill_outputs(dataset, network.outputs)

    def told(done: int) -> None:
        on_event(Progress("evaluation", done, len(examples), "examples"))

    outputs = compute_outputs(make_model_function(network, kind), examples, batch_size=batch_size, on_batch=told)
    reference = Reference(network, outputs, examples.all_labels(), dataset.task, output_kind=kind)
    train = dataset.train
    seen = train.take(
        limit_positions(train.all_labels(), len(train), limit=_CALIBRATION_EXAMPLES, seed=request.recipe.data_seed)
    )
    names = dataset.class_names if dataset.task != "regression" else ()
    accuracy = compare_outputs(outputs, reference).accuracy
    return ExportSource(prepare_for_export(network, kind), examples, reference, seen, names, accuracy, dataset)


def _teacher_kinds(given: Path) -> list[str]:
    """What the files of a run's teachers give; nothing for a file, and for a run that trained a teacher."""
    own = find_run_recipe(given)
    if own is None or find_run_role(given) == "teacher":
        return []
    return [section.output_kind for section in read_run_recipe(own).teachers]


def require_exportable(network: Any) -> Network:
    """Refuse what no format can be written from.

    Raises:
        ModelError: a file that is converted already, a SavedModel that is not frozen, several inputs.
    """
    if not isinstance(network, KerasNetwork | SavedModelNetwork):
        raise ModelError(
            f"{network.name}: a file of this format cannot be converted",
            hint="export the .keras file or the SavedModel that it was made from",
        )
    if isinstance(network, SignatureNetwork):
        raise ModelError(
            f"{network.name}: cannot be converted: {network.unfrozen_reason}",
            hint="export the .keras file that it was made from",
        )
    if len(network.inputs) != 1:
        raise ModelError(f"{network.name}: has {len(network.inputs)} inputs; kd export writes models with one")
    return network


def open_source_without_data(
    file: Path, *, model: Path, request: Request, output_kind: str, on_event: OnEvent
) -> ExportSource:
    """A model as it is, with its outputs on seeded random inputs: normal, or for integers 0 and 1.

    Raises:
        ModelError: several inputs, or an input of open size.
    """
    choice = choice_of(request.recipe.student)
    network = require_exportable(open_file(file, trust=request.trust, part=choice, on_event=on_event).network)
    spec = network.inputs[0]
    if None in spec.shape:
        sides = "×".join("any" if side is None else str(side) for side in spec.shape)
        raise ModelError(
            f"{file}: takes inputs of any size ({sides}), a file needs one", hint="--data D says which"
        )
    shape: tuple[int, ...] = tuple(side for side in spec.shape if side is not None)
    network = network.with_preprocessing(
        {SINGLE_INPUT: Preprocessing(shape, spec.dtype, shape, spec.dtype, "raw")}
    )
    random = np.random.default_rng(request.recipe.data_seed)
    drawn: Any = random.standard_normal((_RANDOM_EXAMPLES, *shape))
    if not spec.dtype.startswith(("float", "bfloat")):
        drawn = drawn > 0
    inputs = drawn.astype(np.float32 if spec.dtype == "bfloat16" else spec.dtype)
    examples = Examples("random", {SINGLE_INPUT: inputs}, None, None, np.arange(_RANDOM_EXAMPLES))
    kind = choose_exported_kind(network, output_kind, teachers=_teacher_kinds(model))
    outputs = make_model_function(network, kind)(examples.take(np.arange(_RANDOM_EXAMPLES)))
    return ExportSource(prepare_for_export(network, kind), examples, Reference(network, outputs, output_kind=kind))
