"""A student for quantization-aware training, and one whose ranges were written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdcli.data.dataset import Dataset
from kdcli.errors import ModelError
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.network import Network
from kdcli.quantization.network import quantize_network, restore_ranges
from kdcli.runs.directory import RANGES_FILE, STUDENT_FILE, read_json
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.shrunk_student import make_batches, sample_calibration


def quantize_student(student: OpenedModel, dataset: Dataset, *, seed: int) -> OpenedModel:
    """Fold a trained student and choose its ranges on training examples.

    Args:
        student: opened, with its preprocessing.
        dataset: its training examples give the ranges.
        seed: RNG seed for the examples.

    Raises:
        ModelError: it is not a Keras model with a graph, or nothing in it can be computed in 8 bits.
    """
    network = student.network
    if not isinstance(network, KerasNetwork):
        raise ModelError(
            f"{network.name}: quantization-aware training needs a Keras model; other formats do not list layers",
            hint="use the .keras file it was made from",
        )
    examples = sample_calibration(dataset, seed=seed)
    return replace(student, network=quantize_network(network, make_batches(network, examples)))


def add_written_ranges(network: Network, path: Path) -> Network:
    """The student of a run from quantization-aware training computes with the ranges that the run wrote.

    Args:
        network: opened from `path`.
        path: of its file.

    Raises:
        ModelError: the ranges belong to another model.
        StorageError: the file with the ranges cannot be read.
    """
    file = path.parent / RANGES_FILE
    if path.name != STUDENT_FILE or not isinstance(network, KerasNetwork) or not file.is_file():
        return network
    return restore_ranges(network, read_json(file))
