"""A shrunk student: built from the opened teacher, on training examples of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.data.order_and_splits import limit_positions
from kdcli.errors import ModelError, UsageError
from kdcli.events import Note, OnEvent
from kdcli.models.files.format import resolve_model_file
from kdcli.models.files.open import open_file
from kdcli.models.keras.model import make_fresh_copy
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.models.saved_model.network import FrozenNetwork
from kdcli.recipe.model_sections import ModelSection
from kdcli.screening.verdict import NO_TRUST, Trust
from kdcli.setup.zoo_models import LoadedModel, copy_preprocessing
from kdcli.shrinking.low_rank import LOW_RANK_SUFFIX
from kdcli.shrinking.resolution import resize_input
from kdcli.shrinking.search import find_largest
from kdcli.shrinking.shrink import Shrinker, ShrunkModel, read_widths
from kdcli.tensors import Batches, KerasModel
from kdcli.zoo.shrunk import Shrunk

# Training examples on which importance, blocks and batch statistics are measured, and how many at a time.
CALIBRATION_EXAMPLES, _BATCH = 512, 64
# Input values at a time: all activations of a model are in memory together.
_BATCH_VALUES = 2_000_000


def build_shrunk_student(
    source: Shrunk,
    *,
    start: str,
    dataset: Dataset,
    section: ModelSection,
    seed: int,
    data_seed: int,
    teacher: Network | None,
    teacher_file: str | None,
    trust: Trust = NO_TRUST,
    on_event: OnEvent,
) -> LoadedModel:
    """Shrink the teacher to the student of a run.

    Args:
        source: how to shrink it.
        start: `fresh` draws new weights; any other keeps those of the teacher.
        dataset: its training examples rank the channels.
        section: the recipe's settings for the student.
        seed: RNG seed for fresh weights.
        data_seed: RNG seed for the examples and for random criteria.
        teacher: the opened teacher, with its preprocessing.
        teacher_file: its file or run; None if it has none.
        trust: what a file that was shrunk before may do.
        on_event: receives a note on the size.

    Raises:
        UsageError: there is no teacher, or no student is that small.
        ModelError: the teacher has no graph that can be shrunk.
    """
    if source.of == "previous":
        raise UsageError(
            "student.model.of is previous, but only the stages of a recipe have a previous student",
            hint="of: teacher, or the path of a model that was shrunk before",
        )
    network = resize_network(rebuild_layers(teacher, teacher_file, trust=trust, on_event=on_event), source.side)
    batches = make_batches(network, sample_calibration(dataset, seed=data_seed))
    model, widths = _choose_model(source, network, trust=trust, on_event=on_event)
    shrinker = Shrinker(
        model,
        source,
        batches=batches,
        kind=network.saved_kind,
        output=network.output_index,
        seed=data_seed,
        widths=widths,
    )
    shrunk = build_to_settings(shrinker, statistics=start != "fresh")
    on_event(Note(describe_shrunk(shrunk, network)))
    model = shrunk.model
    name = f"shrunk {network.name}"
    if start == "fresh":
        model = make_fresh_copy(model, seed=seed)
    return LoadedModel(
        network=KerasNetwork(model, name=name, output=section.output or _name_output(network)),
        start="fresh" if start == "fresh" else "inherited",
        section=_copy_settings(section, network),
        is_initialized=True,
    )


def resize_network(network: KerasNetwork, fraction: float) -> KerasNetwork:
    """The network for images with shorter sides, to which raw images are resized before it.

    Raises:
        ModelError: it takes no single image, or its weights depend on the size.
    """
    if fraction == 1:
        return network
    model = resize_input(network.model, fraction)
    name, before = next(iter(network.preprocessing.items()))
    if not before.is_image:
        raise ModelError(f"{network.name}: the data are not images, so they cannot be resized")
    shape = tuple(model.input_shape[1:])
    size = None if tuple(before.raw_shape[:2]) == shape[:2] else shape[:2]
    resized = KerasNetwork(model, name=network.name, output=_name_output(network))
    preprocessing = replace(before, shape=shape, size=size)
    return resized.with_preprocessing({name: preprocessing}).with_outputs_like(network)


def rebuild_layers(teacher: Network | None, file: str | None, *, trust: Trust, on_event: OnEvent) -> KerasNetwork:
    """The teacher as a Keras model; a Keras 2 file that opened as a frozen graph is rebuilt.

    Raises:
        UsageError: there is no teacher.
        ModelError: the teacher has no Keras graph.
    """
    if teacher is None:
        raise UsageError(
            "a shrunk student is built from the teacher, and the recipe has no teacher",
            hint="--teacher FILE.keras",
        )
    if not isinstance(teacher, FrozenNetwork) or file is None:
        return require_shrinkable(teacher)
    path = resolve_model_file(Path(file), trust=trust)
    rebuilt = open_file(path, trust=trust, rebuild=True, on_event=on_event).network
    return require_shrinkable(rebuilt).with_preprocessing(teacher.preprocessing).with_outputs_like(teacher)


def _choose_model(
    source: Shrunk, teacher: KerasNetwork, *, trust: Trust, on_event: OnEvent
) -> tuple[KerasModel, dict[str, int] | None]:
    """The model to shrink, and the widths of the model whose channels `keep` counts; None for its own.

    Raises:
        ModelError: a model that was not shrunk from the teacher.
    """
    if source.path is None:
        return teacher.model, None
    path = resolve_model_file(Path(source.path), trust=trust)
    before = require_shrinkable(open_file(path, trust=trust, trainable=True, on_event=on_event).network)
    first = teacher
    if source.relative_to is not None:
        path = resolve_model_file(Path(source.relative_to), trust=trust)
        first = require_shrinkable(open_file(path, trust=trust, rebuild=True, on_event=on_event).network)
    widths = read_widths(first.model)
    _check_widths(source, read_widths(before.model), widths)
    return before.model, widths


def _check_widths(source: Shrunk, found: Mapping[str, int], widths: Mapping[str, int]) -> None:
    """Refuse a model that was not made from the teacher: `keep` counts the teacher's channels.

    Raises:
        ModelError: naming the first layer that the teacher does not have, or has narrower.
    """
    for name, width in found.items():
        if width > widths.get(name, 0) and not name.endswith(LOW_RANK_SUFFIX):
            raise ModelError(
                f"{source.path}: the layer {name} with {width} channels is not part of the teacher",
                hint="student.model.of must name a model shrunk from this teacher",
            )


def _name_output(network: KerasNetwork) -> str | None:
    return network.output_name if len(network.all_outputs) > 1 else None


def _copy_settings(section: ModelSection, teacher: KerasNetwork) -> ModelSection:
    """The section with the teacher's preprocessing and output kind, where it leaves them open."""
    section = copy_preprocessing(section, teacher)
    return (
        section.model_copy(update={"output_kind": teacher.saved_kind})
        if section.output_kind == "auto"
        else section
    )


def build_to_settings(shrinker: Shrinker, *, statistics: bool) -> ShrunkModel:
    """Build the student for `keep` or `max_params` of the settings.

    Args:
        shrinker: builds it.
        statistics: whether batch statistics are measured again.

    Raises:
        UsageError: the smallest student has more parameters.
    """
    settings = shrinker.settings
    limit = settings.max_params
    if limit is None:
        return shrinker.build(settings.fraction, statistics=statistics)
    count = shrinker.count_parameters

    def explain(keep: float) -> UsageError:
        return UsageError(
            f"max_params {limit:,}: the smallest student of {shrinker.model.name} has {count(keep):,} parameters",
            hint=f"--set student.model.max_params={count(keep)}",
        )

    keep = find_largest(lambda keep: count(keep) <= limit, explain=explain)
    return shrinker.build(keep, statistics=statistics)


def describe_shrunk(shrunk: ShrunkModel, teacher: KerasNetwork) -> str:
    """A sentence on the size of a student and on what was left out."""
    parts = [f"{shrunk.model.count_params():,} of {teacher.parameters:,} parameters, keep {shrunk.keep:g}"]
    if shrunk.blocks:
        parts.append(f"without {', '.join(block.name for block in shrunk.blocks)}")
    if shrunk.unknown:
        parts.extend(shrunk.unknown)
    return f"student: shrunk from {teacher.name}: {'; '.join(parts)}"


def require_shrinkable(network: Network) -> KerasNetwork:
    """Refuse a model that has no Keras graph.

    Raises:
        ModelError: another format.
    """
    if not isinstance(network, KerasNetwork):
        raise ModelError(
            f"{network.name}: only a Keras model can be shrunk; other formats do not list their layers",
            hint="use the .keras file it was made from, or choose a zoo student: kd inspect zoo:cnn --data D",
        )
    return network


def sample_calibration(dataset: Dataset, *, seed: int) -> Examples:
    """The training examples on which a model is measured before it is shrunk, stratified."""
    train = dataset.train
    if len(train) <= CALIBRATION_EXAMPLES:
        return train
    return train.subset(limit_positions(train.all_labels(), len(train), limit=CALIBRATION_EXAMPLES, seed=seed))


def make_batches(network: KerasNetwork, examples: Examples) -> Batches:
    """Batches of preprocessed examples, as the model takes them."""

    values = sum(int(np.prod(one.preprocessed_shape)) for one in network.preprocessing.values())
    size = network.batch or max(1, min(_BATCH, _BATCH_VALUES // max(1, values)))
    # A model for one batch size takes no smaller rest.
    end = len(examples) // size * size if network.batch else len(examples)

    def batches() -> Iterator[Any]:
        for start in range(0, end, size):
            positions = np.arange(start, min(start + size, end))
            yield network.make_inputs(examples.take(positions))

    return batches
