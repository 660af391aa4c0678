"""The teacher's own architecture, fresh."""

from __future__ import annotations

from typing import Any, Literal

from kdcli.errors import UsageError
from kdcli.spec import ModelSource


class Clone(ModelSource):
    """The teacher's own architecture with weights drawn anew by the seed: a born-again network.

    Furlanello, Lipton, Tschannen, Itti & Anandkumar 2018, arXiv:1805.04770. For the student only. Its
    pictures are prepared as the teacher's, unless `student.input` says otherwise. Taps: the teacher's.
    """

    kind: Literal["zoo"] = "zoo"
    name: Literal["clone"] = "clone"

    def build_from(self, teacher: Any, *, seed: int) -> Any:
        """A fresh `keras.Model` like `teacher`, a `keras.Model`; the same for the same seed.

        Raises:
            UsageError: there is no teacher, or it cannot be made anew from its configuration.
        """
        from kdcli.models.keras.model import make_fresh_copy

        if teacher is None:
            raise UsageError(
                "zoo clone is the teacher's own architecture: only a student can be one",
                hint="name an architecture, such as {kind: zoo, name: resnet}",
            )
        try:
            return make_fresh_copy(teacher, seed=seed)
        except UsageError as error:
            error.hint = "name an architecture, such as {kind: zoo, name: resnet}, or give --student FILE"
            raise
