"""Families of students: each a way to make a student of any size for the same data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdcli.compression.subject import SearchSubject
from kdcli.errors import ModelError
from kdcli.models.keras.network import KerasNetwork
from kdcli.models.preprocessing import scale_to_json
from kdcli.recipe.model_sections import InputSection, StudentSection
from kdcli.runs.directory import find_run_recipe
from kdcli.setup.open_models import OpenedModel, open_model
from kdcli.setup.shrunk_student import make_batches, resize_network
from kdcli.shrinking.augmentation_layers import remove_augmentation
from kdcli.shrinking.blocks import find_blocks
from kdcli.shrinking.shrink import Shrinker
from kdcli.spec import ModelSource
from kdcli.tensors import KerasModel
from kdcli.zoo import File, Shrunk, get_zoo_class

# The zoo students that are tried: the settings besides the width, and the least and the largest width.
_ZOO: dict[str, tuple[dict[str, Any], int, int]] = {
    "zoo-resnet8": ({"name": "resnet", "depth": 8}, 4, 32),
    "zoo-resnet20": ({"name": "resnet", "depth": 20}, 4, 32),
    "zoo-mobile": ({"name": "mobile"}, 4, 48),
    "zoo-cnn": ({"name": "cnn"}, 4, 64),
    "zoo-mlp": ({"name": "mlp"}, 4, 512),
}
# Fractions of the side of the images for which students are tried, besides the whole side.
SIDES = (0.75, 0.5)
# The shortest side that a smaller image may have.
_SHORTEST_SIDE = 12


class Family(ABC):
    """Students that differ only in size, which a fraction in (0, 1] sets.

    Attributes:
        name: what tables call it.
        kind: `shrunk`, `blocks`, `input`, `zoo` or `given`.
        like: a network with the preprocessing and output kind of its students.
        start: what its students start from: `inherited`, `fresh` or `file`.
    """

    name: str
    kind: str
    like: KerasNetwork
    start: str

    @abstractmethod
    def count_parameters(self, keep: float) -> int:
        """The number of parameters of a student."""

    @abstractmethod
    def identify(self, keep: float) -> Hashable:
        """Equal for fractions that give the same student."""

    @abstractmethod
    def assemble(self, keep: float) -> KerasModel:
        """Build a student, enough to measure its cost."""

    @abstractmethod
    def describe(self, keep: float) -> dict[str, Any]:
        """The entry `student.model` of a recipe that makes the student."""

    def build(self, keep: float) -> KerasModel | None:
        """The student with the weights that it starts from; None if the recipe's entry makes it."""
        return None

    def make_section(self, keep: float, start_file: Path | None) -> StudentSection:
        """The section `student` of the recipe of its run.

        Args:
            keep: the size.
            start_file: the file with what `build` returned.
        """
        entry = {"kind": "file", "path": str(start_file)} if start_file is not None else self.describe(keep)
        start = "file" if start_file is not None else self.start
        return StudentSection.model_validate({"model": entry, "start": start})


class ShrunkFamily(Family):
    """The teacher with fewer channels, perhaps without some blocks, or for smaller images.

    Args:
        name, kind: as in `Family`.
        subject: data and teacher.
        settings: how to shrink.

    Raises:
        ModelError: the teacher cannot be shrunk so.
    """

    start = "inherited"

    def __init__(self, name: str, kind: str, subject: SearchSubject, settings: Shrunk) -> None:
        assert subject.network is not None
        self.name, self.kind, self._settings = name, kind, settings
        network = subject.network
        model = remove_augmentation(network.model)
        if model is not network.model:
            copied = KerasNetwork(model, name=network.name, output=network.output_name)
            network = copied.with_preprocessing(network.preprocessing).with_outputs_like(network)
        self.like = resize_network(network, settings.side)
        self.shrinker = Shrinker(
            self.like.model,
            settings,
            batches=make_batches(self.like, subject.calibration),
            kind=self.like.saved_kind,
            output=self.like.output_index,
            seed=subject.request.recipe.data_seed,
        )

    def count_parameters(self, keep: float) -> int:
        """The number of parameters of a student."""
        return self.shrinker.count_parameters(keep)

    def identify(self, keep: float) -> Hashable:
        """Its widths."""
        return self.shrinker.identify(keep)

    def assemble(self, keep: float) -> KerasModel:
        """Build a student, enough to measure its cost."""
        return self.shrinker.assemble(keep)

    def describe(self, keep: float) -> dict[str, Any]:
        """The entry `student.model` of a recipe that makes the student."""
        return self._settings.model_copy(update={"keep": keep}).model_dump(mode="json", exclude_defaults=True) | {
            "kind": "shrunk"
        }

    def build(self, keep: float) -> KerasModel:
        """The student with the teacher's weights."""
        return self.shrinker.build(keep).model

    def make_section(self, keep: float, start_file: Path | None) -> StudentSection:
        """The section `student` of the recipe, with the teacher's preprocessing at the student's image size."""
        section = super().make_section(keep, start_file)
        preprocessing = next(iter(self.like.preprocessing.values()))
        scale = scale_to_json(preprocessing.scale) if preprocessing.is_scaled else "auto"
        values: dict[str, Any] = {"scale": scale, "fit": preprocessing.fit}
        if preprocessing.size is not None:
            values["resize"] = list(preprocessing.size)
        update = {"input": InputSection.model_validate(values), "output_kind": self.like.saved_kind}
        if len(self.like.all_outputs) > 1:
            update["output"] = self.like.output_name
        return section.model_copy(update=update)


class ZooFamily(Family):
    """A zoo architecture in all widths, from fresh weights.

    Args:
        name: a key of the zoo students that are tried.
        subject: gives the shape of the data and the number of outputs.

    Raises:
        UsageError: it cannot be built for this data.
    """

    kind, start = "zoo", "fresh"

    def __init__(self, name: str, subject: SearchSubject) -> None:
        self.name = name
        self._settings, self._least, self._largest = _ZOO[name]
        self._class: type[ModelSource] = get_zoo_class(self._settings["name"])
        self._subject = subject
        self._models: dict[int, KerasModel] = {}
        opened = _open_student(subject, StudentSection.model_validate({"model": self.describe(1 / 8)}), "fresh")
        self.like = opened.network

    def count_parameters(self, keep: float) -> int:
        """The number of parameters of a student."""
        return int(self.assemble(keep).count_params())

    def identify(self, keep: float) -> Hashable:
        """Its width."""
        return self._choose_width(keep)

    def assemble(self, keep: float) -> KerasModel:
        """Build a student."""
        width = self._choose_width(keep)
        if width not in self._models:
            shape = next(iter(self.like.preprocessing.values())).preprocessed_shape
            entry: Any = self._class.model_validate(self.describe(keep))
            self._models[width] = entry.build(shape, self._subject.dataset.outputs)
        return self._models[width]

    def describe(self, keep: float) -> dict[str, Any]:
        """The entry `student.model` of a recipe that makes the student."""
        return {"kind": "zoo", **self._settings, "width": self._choose_width(keep)}

    def _choose_width(self, keep: float) -> int:
        return max(self._least, math.ceil(keep * self._largest))


class GivenFamily(Family):
    """A student that the user gives: one size.

    Args:
        name: as in `Family`.
        path: file or run.
        subject: the data that it is fitted to.

    Raises:
        ModelError: it cannot be opened or does not fit the data.
    """

    kind, start = "given", "file"

    def __init__(self, name: str, path: Path, subject: SearchSubject) -> None:
        self.name, self._path = name, path
        opened = _open_student(subject, StudentSection(model=File(path=str(path))), "file")
        if not isinstance(opened.network, KerasNetwork):
            raise ModelError(
                f"--student {path}: only a Keras model can be a candidate", hint="give the .keras file"
            )
        self.like = opened.network

    def count_parameters(self, keep: float) -> int:
        """The number of its parameters, whatever the fraction."""
        return self.like.parameters

    def identify(self, keep: float) -> Hashable:
        """The same for all fractions."""
        return self.name

    def assemble(self, keep: float) -> KerasModel:
        """The student itself."""
        return self.like.model

    def describe(self, keep: float) -> dict[str, Any]:
        """The entry `student.model` of a recipe."""
        return {"kind": "file", "path": str(self._path.resolve())}


def _open_student(subject: SearchSubject, section: StudentSection, start: str) -> OpenedModel:
    request = subject.request
    return open_model(
        "student",
        given=None,
        source=section.model,
        start=start,
        dataset=subject.dataset,
        section=section,
        seed=request.recipe.train.seed,
        on_event=lambda event: None,
        trust=request.trust,
        trainable=True,
    )


@dataclass(frozen=True)
class PlannedFamily:
    """A family that is not made yet: making one for a large teacher takes a minute.

    Args:
        name, kind, start: as in `Family`.
        make: makes it; a KdError says why it cannot be made.
    """

    name: str
    kind: str
    start: str
    make: Callable[[], Family]


def list_families(
    subject: SearchSubject, students: tuple[Path, ...], *, at_several_sizes: bool
) -> list[PlannedFamily]:
    """All families for the data and the teacher, the most promising first.

    Args:
        subject: data and teacher.
        students: files and runs that the user gives; these families are made at once.
        at_several_sizes: whether candidates of several sizes are made of each family; only some suit that.

    Raises:
        KdError: a student that the user gives cannot be used.
    """
    planned: list[PlannedFamily] = []
    names: set[str] = set()
    for path in students:
        name = path.parent.name if path.is_file() and find_run_recipe(path) else path.stem
        if name.startswith(("shrunk", "zoo-")):
            name = f"given-{name}"
        while name in names:
            name = f"{name}-2"
        names.add(name)
        given = GivenFamily(name, path, subject)
        planned.append(PlannedFamily(name, given.kind, given.start, lambda given=given: given))  # type: ignore[misc]
    every = _list_shrunk_settings(subject)
    for name, kind, settings in every[:1] if at_several_sizes else every:
        make = partial(ShrunkFamily, name, kind, subject, settings)
        planned.append(PlannedFamily(name, kind, ShrunkFamily.start, make))
    for name in _list_zoo_names(subject):
        planned.append(PlannedFamily(name, ZooFamily.kind, ZooFamily.start, partial(ZooFamily, name, subject)))
    return planned


def _list_shrunk_settings(subject: SearchSubject) -> list[tuple[str, str, Shrunk]]:
    if subject.network is None:
        return []
    found = [("shrunk", "shrunk", Shrunk())]
    blocks = len(find_blocks(subject.network.model))
    for count in sorted({round(blocks / 3), round(2 * blocks / 3)} - {0}):
        found.append((f"shrunk-blocks-{count}", "blocks", Shrunk(blocks=count)))
    if _is_photo_model(subject):
        found += [(f"shrunk-input-{side:g}", "input", Shrunk(side=side)) for side in SIDES]
    found.append(("shrunk-global", "shrunk", Shrunk(allocation="global")))
    return found


def _is_photo_model(subject: SearchSubject) -> bool:
    """Whether the teacher takes photos that are large enough to be made smaller."""
    preprocessing = next(iter(subject.first.preprocessing.values()), None)
    if subject.dataset.is_dense or preprocessing is None or not preprocessing.is_image:
        return False
    return (
        len(subject.first.inputs) == 1 and min(preprocessing.preprocessed_shape[:2]) * min(SIDES) >= _SHORTEST_SIDE
    )


def _list_zoo_names(subject: SearchSubject) -> tuple[str, ...]:
    dataset = subject.dataset
    if dataset.is_dense or len(dataset.train.shapes) > 1 or not dataset.outputs:
        return ()
    preprocessing = next(iter(subject.first.preprocessing.values()), None)
    if preprocessing is None or not preprocessing.is_image:
        return ("zoo-mlp",)
    return ("zoo-resnet8", "zoo-cnn", "zoo-mobile", "zoo-resnet20")
