"""The model to export, with its outputs on real examples, or on random inputs without data."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcli.data.dataset import Dataset, fill_outputs
from kdcli.data.examples import SINGLE_INPUT, Examples
from kdcli.data.order_and_splits import limit_positions
from kdcli.errors import ModelError
from kdcli.evaluation.parity import Reference, compare_outputs, compute_outputs, make_model_function
from kdcli.events import OnEvent, Progress
from kdcli.models.files.open import open_file
from kdcli.models.inference import choose_exported_kind, prepare_for_export
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.preprocessing import Preprocessing
from kdcli.models.random_inputs import draw_input
from kdcli.models.saved_model.network import SavedModelNetwork, SignatureNetwork
from kdcli.recipe.reader import read_run_recipe
from kdcli.runs.directory import find_run_recipe, find_run_role
from kdcli.setup.evaluated_models import open_evaluated_file
from kdcli.setup.named_models import open_examples
from kdcli.setup.open_models import choice_of
from kdcli.setup.request import Request

# Training examples that calibrate an 8-bit file, and random inputs without data.
_CALIBRATION_EXAMPLES, _RANDOM_EXAMPLES = 200, 32


@dataclass(frozen=True)
class ExportSource:
    """A model to export.

    Args:
        network: the model in float32, with its preprocessing; without data it has none.
        examples: raw examples on which files are compared with the model.
        reference: the model's outputs for these examples.
        shown: raw training examples for calibration, by input name; None without data.
        class_names: class names in label order; empty if unknown.
        accuracy: accuracy of the model on the examples; None without labels or decisions.
        dataset: the data; None without data.
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
    validation: bool = False,
    on_event: OnEvent,
) -> ExportSource:
    """Open a model with its preprocessing, and compute its outputs on a split.

    Args:
        model: a file or a run directory.
        request: recipe and data.
        output_kind: `teacher`, `probabilities` or `logits`.
        split: split of the comparison.
        limit: number or fraction of its examples.
        batch_size: number of examples in a batch.
        validation: whether validation examples are needed beside those of the split.
        on_event: receives notes and progress.

    Raises:
        DataError: the data is missing or wrong.
        ModelError: the model does not fit the data, or cannot be exported.
    """
    dataset, examples = open_examples(request, split=split, limit=limit, validation=validation, on_event=on_event)
    with ExitStack() as resources:
        file = open_evaluated_file(
            model, "student", request=request, dataset=dataset, threads=None, opened=resources, on_event=on_event
        )
    network = require_exportable(file.network)
    kind = choose_exported_kind(network, output_kind, teachers=_read_teacher_kinds(model))
    return make_source(
        network,
        dataset,
        examples,
        kind=kind,
        seed=request.recipe.data_seed,
        batch_size=batch_size,
        on_event=on_event,
    )


def make_source(
    network: Network,
    dataset: Dataset,
    examples: Examples,
    *,
    kind: str,
    seed: int,
    batch_size: int,
    on_event: OnEvent,
) -> ExportSource:
    """Compute the outputs of a network on a split, and prepare it for export.

    Args:
        network: with its preprocessing.
        dataset: its training examples calibrate files.
        examples: examples of the comparison.
        kind: output kind of the files.
        seed: RNG seed for the calibration examples.
        batch_size: number of examples in a batch.
        on_event: receives progress.
    """
    dataset = fill_outputs(dataset, network.outputs)

    def report_progress(done: int) -> None:
        on_event(Progress("evaluation", done, len(examples), "examples"))

    function = make_model_function(network, kind)
    outputs = compute_outputs(function, examples, batch_size=batch_size, on_batch=report_progress)
    reference = Reference(network, outputs, examples.all_labels(), dataset.task, output_kind=kind)
    train = dataset.train
    positions = limit_positions(train.all_labels(), len(train), limit=_CALIBRATION_EXAMPLES, seed=seed)
    return ExportSource(
        network=prepare_for_export(network, kind),
        examples=examples,
        reference=reference,
        shown=train.take(positions),
        class_names=dataset.class_names if dataset.task != "regression" else (),
        accuracy=compare_outputs(outputs, reference).accuracy,
        dataset=dataset,
    )


def open_source_without_data(
    file: Path, *, model: Path, request: Request, output_kind: str, on_event: OnEvent
) -> ExportSource:
    """Open a model without preprocessing, and compute its outputs on seeded random inputs.

    Inputs of float types are normally distributed; those of integer types are 0 or 1.

    Args:
        file: the model file.
        model: the file, or the run directory in which it is.
        request: recipe and trust.
        output_kind: `teacher`, `probabilities` or `logits`.
        on_event: receives notes.

    Raises:
        ModelError: several inputs, an input of any size, or a model that cannot be exported.
    """
    part = choice_of(request.recipe.student)
    network = require_exportable(open_file(file, trust=request.trust, part=part, on_event=on_event).network)
    spec = network.inputs[0]
    if None in spec.shape:
        sides = "×".join("any" if side is None else str(side) for side in spec.shape)
        raise ModelError(
            f"{file}: takes inputs of any size ({sides}); an exported file needs a fixed size",
            hint="--data D sets the size",
        )
    shape: tuple[int, ...] = tuple(side for side in spec.shape if side is not None)
    network = network.with_preprocessing(
        {SINGLE_INPUT: Preprocessing(shape, spec.dtype, shape, spec.dtype, "raw")}
    )
    inputs = draw_input(spec, _RANDOM_EXAMPLES, np.random.default_rng(request.recipe.data_seed))
    examples = Examples("random", {SINGLE_INPUT: inputs}, None, None, np.arange(_RANDOM_EXAMPLES))
    kind = choose_exported_kind(network, output_kind, teachers=_read_teacher_kinds(model))
    outputs = make_model_function(network, kind)(examples.take(np.arange(_RANDOM_EXAMPLES)))
    reference = Reference(network, outputs, output_kind=kind)
    return ExportSource(prepare_for_export(network, kind), examples, reference)


def require_exportable(network: Network) -> Network:
    """Refuse a network that no format can be written from.

    Raises:
        ModelError: a converted file, a SavedModel that is not frozen, or several inputs.
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


def _read_teacher_kinds(model: Path) -> list[str]:
    """The output kinds of a run's teachers; empty for a file, and for a run that trained a teacher."""
    recipe = find_run_recipe(model)
    if recipe is None or find_run_role(model) == "teacher":
        return []
    return [section.output_kind for section in read_run_recipe(recipe).teachers]
