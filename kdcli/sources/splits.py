"""A source of its own for each split."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from kdcli.errors import DataError
from kdcli.sources.single_source import SingleSource
from kdcli.spec import Source

if TYPE_CHECKING:
    from kdcli.data.examples import Splits


class SplitSources(Source):
    """`{train: D, validation: D, test: D}`, each a text or a mapping as for a single source.

    Of a source that has splits itself the one of that name is taken, of any other one everything. Classes and
    columns must agree.

    Args:
        train: the training examples.
        validation: those that select; split off the training part when left out.
        test: those that are measured once, at the end.
    """

    kind: Literal["splits"] = "splits"
    train: SingleSource
    validation: SingleSource | None = None
    test: SingleSource | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and folders of all of them."""
        given = (self.train, self.validation, self.test)
        return tuple(path for source in given if source is not None for path in source.paths)

    def load(self) -> Splits:
        """The splits, from one source each."""
        from kdcli.data.combined_splits import combine_splits

        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return combine_splits(
            {split: _loaded(split, source) for split, source in given.items() if source is not None}
        )


def _loaded(split: str, source: Source) -> Splits:
    """What one source holds; settings that its sentences name are those of the split."""
    ours, theirs = f"data.source.{split}.", "data.source."
    try:
        splits: Splits = source.load()
    except DataError as error:
        hint = error.hint and error.hint.replace(theirs, ours)
        raise DataError(error.message, hint=hint, location=error.location) from error
    return replace(splits, notes=tuple(note.replace(theirs, ours) for note in splits.notes))
