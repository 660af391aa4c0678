"""The teacher's architecture with fresh weights."""

from __future__ import annotations

from typing import ClassVar, Literal

from kdcli.errors import UsageError
from kdcli.spec import ModelSource
from kdcli.tensors import KerasModel


class Clone(ModelSource):
    """The teacher's architecture with new weights drawn from the seed: a born-again network.

    Furlanello, Lipton, Tschannen, Itti & Anandkumar 2018, arXiv:1805.04770. For the student only. Its
    preprocessing is the teacher's, unless `student.input` differs. Taps: those of the teacher.
    """

    needs_teacher: ClassVar[bool] = True

    kind: Literal["zoo"] = "zoo"
    name: Literal["clone"] = "clone"

    def build_from(self, teacher: KerasModel | None, *, seed: int) -> KerasModel:
        """Build a fresh model like the teacher; equal seeds give equal weights.

        Raises:
            UsageError: there is no teacher, or it cannot be built from its configuration.
        """
        from kdcli.models.keras.model import make_fresh_copy

        if teacher is None:
            raise UsageError(
                "zoo clone copies the teacher's architecture: only a student can be one",
                hint="name an architecture, such as {kind: zoo, name: resnet}",
            )
        try:
            return make_fresh_copy(teacher, seed=seed)
        except UsageError as error:
            error.hint = "name an architecture, such as {kind: zoo, name: resnet}, or give --student FILE"
            raise
