"""The recipe: all settings of a run, frozen and strict, validated as a whole before TensorFlow loads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from kdcli.augment import AnyAugment
from kdcli.losses import AnyLoss
from kdcli.recipe.gates import GatesSection
from kdcli.recipe.model_sections import (
    EnsembleSection,
    StudentSection,
    TeacherOrEnsemble,
    TeacherSection,
)
from kdcli.recipe.stage_sections import StageSection, check_loss_names
from kdcli.recipe.train_section import TrainSection
from kdcli.recipe.types import ClassNames, ClassWeight, CodeFiles, ExampleLimit, Seed, WordOrFraction
from kdcli.sources import AnySource
from kdcli.spec import Fraction, Spec

# Metrics that are better when lower; all others are better when higher.
LOWER_IS_BETTER = ("loss", "mae", "rmse")


class DataSection(Spec):
    """The data.

    Args:
        source: a name, a path, a mapping with `kind`, or `{train: D, validation: D, test: D}` of such.
        validation: fraction of the training split that is held out to select the best weights, unless the source
            has a validation split.
        test: fraction of the training split that is set aside first as the test split, unless the source has one;
            equal examples stay together. `auto` is 0.1 in kd compress and 0 elsewhere.
        task: kind of labels; `auto` determines it from them.
        labels: `none` ignores the labels, and agreement with the teacher selects the best weights. A name selects
            `y_train.NAME`.
        classes: class names in the order of the outputs, or a text file with one per line; whole numbers are the
            label values, such as `[1, 2, 3]` or `[-1, 1]`.
        ignore: label of void pixels, such as 255; losses on outputs and metrics ignore them.
        target_scale: scale of images as targets: `unit` divides by 255, `signed` gives [-1, 1], `raw` changes
            nothing; `auto` is `unit` for bytes.
        class_weight: weights of label losses by class name; `balanced` gives every class the same total weight.
        limit: number of training examples to use: a count, or a fraction written with a decimal point.
        augment: augmentations, in order.
        seed: RNG seed for the split, the limit and the views; `train.seed` if omitted. `kd compare` uses the same
            one for all repeats, so that they share the teacher's outputs.
    """

    source: AnySource | None = None
    validation: Annotated[Fraction, Field(lt=1)] = 0.1
    test: WordOrFraction = "auto"
    task: Literal["auto", "classification", "multilabel", "regression", "segmentation"] = "auto"
    labels: Annotated[str, Field(min_length=1)] = "auto"
    classes: ClassNames | None = None
    ignore: int | None = None
    target_scale: Literal["auto", "unit", "signed", "raw"] = "auto"
    class_weight: ClassWeight = "none"
    limit: ExampleLimit = 1.0
    augment: Annotated[tuple[AnyAugment, ...], Field(strict=False)] = ()
    seed: Seed | None = None


class Recipe(Spec):
    """A distillation, a chain of distillations in stages, or the training of a teacher.

    `taught_by` is the key `teacher` of the recipe: a section, or a list of sections.
    """

    # Recipes use the alias only: `taught_by` is not a key.
    model_config = ConfigDict(populate_by_name=False)

    version: Literal[1] = 1
    description: str = ""
    data: DataSection = DataSection()
    taught_by: TeacherOrEnsemble = Field(default=TeacherSection(), alias="teacher")
    ensemble: EnsembleSection | None = None
    student: StudentSection = StudentSection()
    losses: Annotated[tuple[AnyLoss, ...], Field(strict=False, min_length=1)] | None = None
    train: TrainSection = TrainSection()
    gates: GatesSection = GatesSection()
    # Names of the files that `--code` must give: a recipe cannot run code by itself.
    requires: CodeFiles = ()
    stages: Annotated[tuple[StageSection, ...], Field(strict=False)] = ()

    @property
    def teachers(self) -> tuple[TeacherSection, ...]:
        """All teachers, in order."""
        return (self.taught_by,) if isinstance(self.taught_by, TeacherSection) else self.taught_by

    @property
    def teacher(self) -> TeacherSection:
        """The teacher, or the first member of an ensemble."""
        return self.teachers[0]

    @property
    def is_ensemble(self) -> bool:
        """Whether the teachers are given as a list, even a list of one."""
        return not isinstance(self.taught_by, TeacherSection)

    @property
    def sides(self) -> dict[str, TeacherSection | StudentSection]:
        """All sections with a model, by the name that `--set` uses: `teacher` or `teacher.0`, ...; `student`."""
        members = {f"teacher.{number}": section for number, section in enumerate(self.teachers)}
        return {**(members if self.is_ensemble else {"teacher": self.teacher}), "student": self.student}

    def with_teachers(self, *teachers: TeacherSection, ensemble: bool = False) -> Recipe:
        """Return the recipe with another teacher, or with a list of teachers if `ensemble`."""
        return self.model_copy(update={"taught_by": teachers if ensemble else teachers[0]})

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the model outputs that are selected by name."""
        return tuple(name for name in (self.student.output, *(one.output for one in self.teachers)) if name)

    @property
    def data_seed(self) -> int:
        """RNG seed for the split, the limit and the views."""
        return self.train.seed if self.data.seed is None else self.data.seed

    @model_validator(mode="after")
    def _check_loss_names(self) -> Recipe:
        check_loss_names(self.losses or ())
        return self
