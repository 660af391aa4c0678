"""The recipe: everything that a run is asked to do, frozen and strict, checked whole before TensorFlow loads."""

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
from kdcli.recipe.stages import StageSection, check_loss_names
from kdcli.recipe.training import TrainSection
from kdcli.recipe.types import ClassNames, ClassWeight, CodeFiles, ExampleLimit, Seed
from kdcli.sources import AnySource
from kdcli.spec import Fraction, Spec

Task = Literal["classification", "multilabel", "regression", "segmentation"]
# Monitors of which less is better; of every other one more is better.
LOWER_IS_BETTER = ("loss", "mae", "rmse")


class DataSection(Spec):
    """The examples.

    Args:
        source: a name, a path, a mapping with `kind`, or `{train: D, validation: D, test: D}` of such.
        validation: share of the training part that selects the best weights, unless the source has one.
        task: what the labels are; `auto` looks at them.
        labels: `none` ignores labels; agreement with the teacher then selects. A name chooses one `y_train.NAME`.
        classes: names in the order of the outputs, or a text file with one a line; whole numbers are the labels
            themselves, such as `[1, 2, 3]` or `[-1, 1]`.
        ignore: the label of void pixels, such as 255: losses on outputs and metrics leave them out.
        target_scale: of images as targets: `unit` divides by 255, `signed` gives [-1, 1], `raw` leaves them as
            they are; `auto` is `unit` for bytes.
        class_weight: weights on label losses, by class name; `balanced` makes every class count the same.
        limit: how many training examples to use: a count, or a share written with a point.
        augment: augmentations, in order.
        seed: of the split, the limit and the views; `train.seed` when left out. `kd compare` holds it still, so
            that all repeats share the teacher's answers.
    """

    source: AnySource | None = None
    validation: Annotated[Fraction, Field(lt=1)] = 0.1
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
    """One distillation, or several in stages, or the training of one teacher.

    `taught_by` is what the recipe calls `teacher`: a section, or a list of them.
    """

    # Only as the recipe writes it: `taught_by` is no key.
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
    # Names of files that `--code` must give: a recipe cannot run code by itself.
    requires: CodeFiles = ()
    stages: Annotated[tuple[StageSection, ...], Field(strict=False)] = ()

    @property
    def teachers(self) -> tuple[TeacherSection, ...]:
        """All teachers, in order."""
        return (self.taught_by,) if isinstance(self.taught_by, TeacherSection) else self.taught_by

    @property
    def teacher(self) -> TeacherSection:
        """The teacher, or the first of several."""
        return self.teachers[0]

    @property
    def is_ensemble(self) -> bool:
        """Whether teachers are listed, be it one."""
        return not isinstance(self.taught_by, TeacherSection)

    @property
    def sides(self) -> dict[str, TeacherSection | StudentSection]:
        """Every section that names a model, as `--set` writes it: `teacher` or `teacher.0`, ..., and `student`."""
        several = {f"teacher.{number}": section for number, section in enumerate(self.teachers)}
        return {**(several if self.is_ensemble else {"teacher": self.teacher}), "student": self.student}

    def with_teachers(self, *teachers: TeacherSection, ensemble: bool = False) -> Recipe:
        """The same recipe with another teacher, or a list of them."""
        return self.model_copy(update={"taught_by": teachers if ensemble else teachers[0]})

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of models that are chosen by name."""
        return tuple(name for name in (self.student.output, *(one.output for one in self.teachers)) if name)

    @property
    def data_seed(self) -> int:
        """The seed of split, limit and views."""
        return self.train.seed if self.data.seed is None else self.data.seed

    @model_validator(mode="after")
    def _distinct_names(self) -> Recipe:
        check_loss_names(self.losses or ())
        return self
