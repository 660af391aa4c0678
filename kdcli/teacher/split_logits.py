"""A teacher's logits of whole splits, for figures and choices: float32, without augmentation, asked once."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.cache.entry import Entry
from kdcli.cache.folder import count_allowed_bytes
from kdcli.cache.layout import ArraySpec, Layout
from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.data.views import create_identity_views
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.models.prediction import LOGITS
from kdcli.runs.records import hash_arrays
from kdcli.setup.context import Context
from kdcli.setup.open_models import OpenedModel
from kdcli.teacher.cache_key import Components, split_components
from kdcli.teacher.fill_cache import PATIENCE, Ask, fill_cache, fill_memory, make_filling
from kdcli.teacher.inference import TeacherPass
from kdcli.teacher.precision import SAMPLE

# What the cache calls the examples on which choices are made.
SAMPLE_SPLIT = "sample"


@dataclass(frozen=True)
class SplitLogits:
    """Answers to whole splits, from the cache where there is one.

    Args:
        opened: the teacher.
        dataset: whose examples are answered.
        folder: the cache's; None where nothing is kept on disk.
        base: what the answers follow from beside the examples; None where nothing tells.
        around: listener, limit of the cache, what is asked once.
        unkept: why there is no cache, a clause.
    """

    opened: OpenedModel
    dataset: Dataset
    folder: Path | None
    base: Components | None
    context: Context
    unkept: str = ""

    def __call__(self, split: str, examples: Examples) -> np.ndarray:
        """Float32 logits of examples.

        Args:
            split: `validation`, `test` or `sample`.
            examples: of it.

        Raises:
            ModelError: an answer that is not finite, or nothing recorded for some of them.
            Interrupted: `stop` said so.
        """
        ask = partial(TeacherPass, self.opened.network, (), examples, create_identity_views(examples))
        return self.context.memo(self._key(split, examples), partial(self._logits, split, examples, ask))

    def known(self, split: str, examples: Examples, logits: np.ndarray) -> None:
        """Take answers that were measured on the way, and keep them like others."""

        def given(view: int, start: int, stop: int, **_: Any) -> dict[str, np.ndarray]:
            return {LOGITS: logits[start:stop]}

        self.context.memo(
            self._key(split, examples), lambda: self._logits(split, examples, lambda: nullcontext(given))
        )

    def _key(self, split: str, examples: Examples) -> tuple[str, str, int, str]:
        return ("logits", split, id(self.opened.network), hash_arrays([examples.rows]))

    def _logits(self, split: str, examples: Examples, ask: Ask) -> np.ndarray:
        network, views = self.opened.network, create_identity_views(examples)
        if isinstance(network, RecordedNetwork):
            return network.read_logits(examples.rows)
        shape = tuple(int(side or 1) for side in (*network.output_shape[:-1], network.outputs))
        layout = Layout(len(examples), 1, (ArraySpec(LOGITS, "float32", shape),))
        what = f"the {split} examples"
        filling = make_filling(self.context, len(examples), what)
        patient = make_filling(self.context, len(examples), what, patience=PATIENCE)
        if self.folder is None or self.base is None:
            return fill_memory(ask, layout, patient)[LOGITS]
        components = {**self.base, **split_components(split, examples, views, self.context.memo)}
        entry = self.context.find_entry(self.folder, components)
        if not self._may_keep(self.folder, entry, layout):
            return fill_memory(ask, layout, patient)[LOGITS]
        words = entry_labels(self.opened, self.dataset, split)
        reader, _ = fill_cache(
            self.folder,
            components,
            ask,
            layout=layout,
            described=words,
            choices={},
            filling=filling,
            entry=entry,
        )
        return reader.read_all(LOGITS)

    def _may_keep(self, folder: Path, entry: Entry | None, layout: Layout) -> bool:
        """Whether answers are there, or may be kept: a dry run writes nothing, and a full cache takes no more."""
        if entry is not None and not entry.missing():
            return True
        return not self.context.dry_run and count_allowed_bytes(folder, self.context.cache_limit) >= layout.bytes


def entry_labels(opened: OpenedModel, dataset: Dataset, split: str) -> dict[str, str]:
    """What an entry of the cache says to people."""
    return {"teacher": str(opened.path or opened.network.name), "data": dataset.name, "split": split}


def sample_examples(train: Examples) -> Examples:
    """Training examples from the whole split, on which choices are made: 2,048, or all."""
    return train.subset(sample_positions(train))


def sample_positions(train: Examples) -> np.ndarray:
    """The positions of those examples."""
    return np.linspace(0, len(train) - 1, min(SAMPLE, len(train))).astype(int)
