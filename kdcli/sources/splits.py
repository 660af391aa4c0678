"""A separate source for each split."""

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

    If a source has splits, the split of that name is used, else the whole source. Classes and columns of all
    sources must be equal.

    Args:
        train: the training examples.
        validation: examples that select the best weights; split off the training split by default.
        test: examples that are evaluated once, at the end.
    """

    kind: Literal["splits"] = "splits"
    train: SingleSource
    validation: SingleSource | None = None
    test: SingleSource | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and folders of all sources."""
        return tuple(path for source in self._sources().values() for path in source.paths)

    def load(self) -> Splits:
        """Read each split from its source."""
        from kdcli.data.combined_splits import combine_splits

        return combine_splits({split: _load_split(split, source) for split, source in self._sources().items()})

    def _sources(self) -> dict[str, Source]:
        sources = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: source for split, source in sources.items() if source is not None}


def _load_split(split: str, source: Source) -> Splits:
    """Load one source; settings in its messages become those of the split."""
    setting, prefix = f"data.source.{split}.", "data.source."
    try:
        splits: Splits = source.load()
    except DataError as error:
        hint = error.hint and error.hint.replace(prefix, setting)
        raise DataError(error.message, hint=hint, location=error.location) from error
    return replace(splits, notes=tuple(note.replace(prefix, setting) for note in splits.notes))
