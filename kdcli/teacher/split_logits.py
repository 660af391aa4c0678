"""The teacher's logits for whole splits, for metrics and choices: float32, without augmentation, cached."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kdcli.cache.folder import (
    count_allowed_bytes,
    explain_unusable,
    find_cache_folder,
    is_cache_folder_set,
)
from kdcli.cache.layout import ArraySpec, Layout
from kdcli.data.dataset import Dataset
from kdcli.data.examples import Examples
from kdcli.data.views import create_identity_views
from kdcli.errors import StorageError
from kdcli.models.files.recorded_outputs import RecordedNetwork
from kdcli.models.network import Network
from kdcli.models.prediction import LOGITS
from kdcli.runs.run_environment import hash_arrays
from kdcli.runs.writer import make_folder
from kdcli.setup.context import Context
from kdcli.setup.open_models import OpenedModel
from kdcli.setup.request import Request
from kdcli.teacher.cache_key import Components, split_components, teacher_components
from kdcli.teacher.fill_cache import PATIENCE_SECONDS, OpenSource, fill_cache, fill_memory, make_filling
from kdcli.teacher.inference import TeacherPass
from kdcli.teacher.precision import SAMPLE_SIZE

# Name of the cached split of examples on which choices are made.
SAMPLE_SPLIT = "sample"


@dataclass(frozen=True)
class SplitLogits:
    """Logits for whole splits, from the cache if possible.

    Args:
        opened: the teacher.
        dataset: the data.
        context: listener, cache limit and memo of the command.
        folder: folder of the cache; None if nothing is cached.
        base: components of the cache key that identify the teacher; None if it cannot be identified.
        no_cache_reason: why nothing is cached, as a clause.
    """

    opened: OpenedModel
    dataset: Dataset
    context: Context
    folder: Path | None = None
    base: Components | None = None
    no_cache_reason: str = ""

    @property
    def network(self) -> Network:
        """The teacher's network."""
        network: Network = self.opened.network
        return network

    def __call__(self, split: str, examples: Examples) -> np.ndarray:
        """Return the float32 logits for examples.

        Args:
            split: `validation`, `test` or `sample`.
            examples: examples of the split.

        Raises:
            ModelError: an output is NaN or infinite, or recorded outputs lack some examples.
            Interrupted: the command was stopped.
        """
        open_pass = partial(TeacherPass, self.network, (), examples, create_identity_views(examples))
        return self.context.memo(self._key(split, examples), lambda: self._load(split, examples, open_pass))

    def store(self, split: str, examples: Examples, logits: np.ndarray) -> None:
        """Store logits that were computed for another purpose."""

        def copy(view: int, start: int, stop: int, **_: object) -> dict[str, np.ndarray]:
            return {LOGITS: logits[start:stop]}

        self.context.memo(
            self._key(split, examples), lambda: self._load(split, examples, lambda: nullcontext(copy))
        )

    def _key(self, split: str, examples: Examples) -> tuple[str, str, int, str]:
        return ("logits", split, id(self.network), hash_arrays([examples.rows]))

    def _load(self, split: str, examples: Examples, open_source: OpenSource) -> np.ndarray:
        """Read the logits from the cache; compute what it lacks."""
        network = self.network
        if isinstance(network, RecordedNetwork):
            return network.read_logits(examples.rows)
        shape = tuple(int(side or 1) for side in (*network.output_shape[:-1], network.outputs))
        layout = Layout(len(examples), 1, (ArraySpec(LOGITS, "float32", shape),))
        report = partial(make_filling, self.context, len(examples), f"the {split} examples")
        uncached = report(patience_seconds=PATIENCE_SECONDS)
        if self.folder is None or self.base is None:
            return fill_memory(open_source, layout, uncached)[LOGITS]
        views = create_identity_views(examples)
        components = {**self.base, **split_components(split, examples, views, self.context.memo)}
        entry = self.context.find_entry(self.folder, components)
        is_complete = entry is not None and not entry.missing()
        if not is_complete and not self._may_write(self.folder, layout):
            return fill_memory(open_source, layout, uncached)[LOGITS]
        reader, _ = fill_cache(
            self.folder,
            components,
            open_source,
            layout=layout,
            described=describe_entry(self.opened, self.dataset, split),
            choices={},
            filling=report(is_cached=True),
            entry=entry,
        )
        return reader.read_all(LOGITS)

    def _may_write(self, folder: Path, layout: Layout) -> bool:
        """Whether outputs may be written: not in a dry run, and not into a full cache."""
        return not self.context.dry_run and count_allowed_bytes(folder, self.context.cache_limit) >= layout.bytes


def open_split_logits(request: Request, dataset: Dataset, opened: OpenedModel) -> SplitLogits:
    """Prepare a teacher's logits for whole splits, cached if the recipe permits.

    Raises:
        StorageError: a cache that is requested cannot be used.
    """
    if isinstance(opened.network, RecordedNetwork):
        return SplitLogits(opened, dataset, request.context)
    base, targets = teacher_components(opened, request.code), request.recipe.teacher.targets
    if targets in ("live", "memory"):
        return SplitLogits(opened, dataset, request.context, base=base)
    folder, reason = _find_folder(targets, base, dry_run=request.context.dry_run)
    return SplitLogits(opened, dataset, request.context, folder, base, reason)


def _find_folder(targets: str, base: Components | None, *, dry_run: bool) -> tuple[Path | None, str]:
    """Find the folder of the cache; else None and the reason.

    Raises:
        StorageError: a cache that is requested cannot be used.
    """
    if base is None:
        if targets == "disk":
            raise StorageError(
                "teacher.targets=disk needs a teacher that can be identified again; this object has no "
                "serializable config",
                hint="pass the teacher as a file, or --set teacher.targets=memory",
            )
        return None, "the teacher cannot be identified again: this object has no serializable config"
    folder = find_cache_folder()
    reason = explain_unusable(folder)
    if reason is None and not dry_run and not folder.exists():
        try:
            make_folder(folder)
        except StorageError as error:
            reason = error.message.removeprefix(f"{folder}: ")
    if reason is None:
        return folder, ""
    if is_cache_folder_set() or targets == "disk":
        raise StorageError(f"{folder}: {reason}", hint="another KD_CACHE_DIR, or --set teacher.targets=memory")
    return None, f"the cache cannot be used ({folder}: {reason})"


def describe_entry(opened: OpenedModel, dataset: Dataset, split: str) -> dict[str, str]:
    """Describe a cache entry for people."""
    return {"teacher": str(opened.path or opened.network.name), "data": dataset.name, "split": split}


def sample_examples(train: Examples) -> Examples:
    """Sample training examples evenly, for choices: 2,048, or all if there are fewer."""
    return train.subset(sample_positions(train))


def sample_positions(train: Examples) -> np.ndarray:
    """Sample the positions of those examples."""
    return np.linspace(0, len(train) - 1, min(SAMPLE_SIZE, len(train))).astype(int)
