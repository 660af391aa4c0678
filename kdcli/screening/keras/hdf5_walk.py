"""A walk through everything in an HDF5 file, for the child process that reads it; it follows nothing outward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

MOST_OBJECTS, _MAX_LEVELS, MOST_ATTRIBUTES = 100_000, 64, 100_000
# Keras writes the names of weights and the configuration as attributes.
MOST_ATTRIBUTE_BYTES = 64_000_000
# What a file may become in memory: values that compress well, but no bomb.
_SPARE_BYTES, _MAX_EXPANSION = 16_000_000, 30
# Deflate, shuffle, checksum, szip, n-bit, scale-offset, lzf; everything else is a library that HDF5 would load.
FILTERS = frozenset((1, 2, 3, 4, 5, 6, 32000))
_SLAB = 16_000_000
_MOST_FAULTS = 20


class Refusal(Exception):
    """One thing that the file is refused for."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Walk:
    """Goes through everything in a file once.

    Args:
        file: an open `h5py.File`.
        size: of the file in bytes.
    """

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.size = file, size
        self.faults: list[Refusal] = []
        self.values = self.declared = self.stored = self.attributes = self.attribute_bytes = 0
        self.seen: set[int] = set()
        self.datasets: list[Any] = []
        self.config: str | None = None

    def go(self) -> None:
        """Look at every group, dataset and attribute, then read all values."""
        self._group(self.file, "/", 0)
        if self.declared > _SPARE_BYTES + _MAX_EXPANSION * self.size:
            raise Refusal("size", f"its weights take {self.declared} bytes, {self.size} are there")
        if self.stored > self.size:
            raise Refusal("damaged", f"its weights lie in {self.stored} bytes, {self.size} are there")
        if not self.faults:
            for dataset in self.datasets:
                _read(dataset)

    def _fault(self, rule: str, message: str) -> None:
        self.faults.append(Refusal(rule, message))
        if len(self.faults) >= _MOST_FAULTS:
            raise self.faults.pop()

    def _group(self, group: Any, path: str, level: int) -> None:
        self._attributes(group, path)
        if level > _MAX_LEVELS:
            raise Refusal("damaged", f"groups lie more than {_MAX_LEVELS} levels deep")
        if len(group) + len(self.seen) > MOST_OBJECTS:
            raise Refusal("size", f"it holds more than {MOST_OBJECTS} objects")
        for name in group:
            self._entry(group, name, f"{path}{name}", level)

    def _entry(self, group: Any, name: str, path: str, level: int) -> None:
        import h5py

        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "external" if isinstance(link, h5py.ExternalLink) else "soft"
            target = f" to the file {link.filename!r:.80}" if kind == "external" else ""
            self._fault(f"{kind}-link", f"{path!r:.80} is a link{target}, not a weight")
            return
        held = group[name]
        number = h5py.h5o.get_info(held.id).addr
        if number in self.seen:
            self._fault("link-cycle", f"{path!r:.80} stands in the file twice")
            return
        self.seen.add(number)
        if len(self.seen) > MOST_OBJECTS:
            raise Refusal("size", f"it holds more than {MOST_OBJECTS} objects")
        if isinstance(held, h5py.Group):
            self._group(held, f"{path}/", level + 1)
        elif isinstance(held, h5py.Dataset):
            self._dataset(held, path)
        else:
            self._fault("type", f"{path!r:.80} is neither a group nor numbers")

    def _dataset(self, dataset: Any, path: str) -> None:
        import h5py

        self._attributes(dataset, path)
        made, layout = dataset.id.get_create_plist(), dataset.id.get_create_plist().get_layout()
        filters = [made.get_filter(number)[0] for number in range(made.get_nfilters())]
        unknown = [code for code in filters if code not in FILTERS]
        if layout == h5py.h5d.VIRTUAL:
            self._fault("virtual-dataset", f"{path!r:.80} takes its values from elsewhere")
        elif made.get_external_count():
            self._fault("external-storage", f"{path!r:.80} takes its values from another file")
        elif unknown:
            self._fault("filter", f"{path!r:.80} needs the filter {unknown[0]}, a library of its own")
        elif dataset.dtype.kind not in "biufcSV" or dataset.dtype.names or dataset.dtype.subdtype:
            self._fault("type", f"{path!r:.80} holds {str(dataset.dtype)[:40]}, not numbers")
        else:
            shape = dataset.shape or ()
            count = int(np.prod([int(side) for side in shape], dtype=object))
            # Reading one value unpacks the chunk that it lies in.
            chunk = int(np.prod([int(side) for side in dataset.chunks or ()], dtype=object))
            self.values += count
            self.declared += max(count, chunk) * dataset.dtype.itemsize
            self.stored += dataset.id.get_storage_size()
            self.datasets.append(dataset)

    def _attributes(self, owner: Any, path: str) -> None:
        import h5py

        count = h5py.h5a.get_num_attrs(owner.id)
        self.attributes += count
        if self.attributes > MOST_ATTRIBUTES:
            raise Refusal("size", f"it holds more than {MOST_ATTRIBUTES} attributes")
        for index in range(count):
            attribute = h5py.h5a.open(owner.id, index=index)
            name = attribute.name.decode("utf-8", "replace")
            kind = attribute.get_type()
            self._count(attribute.get_space().get_simple_extent_npoints() * kind.get_size())
            text = isinstance(kind, h5py.h5t.TypeStringID)
            if not text and attribute.dtype.kind not in "biufSU":
                self._fault("type", f"the attribute {name!r:.80} of {path!r:.80} is neither text nor numbers")
                continue
            value = owner.attrs[name]
            if text:
                self._count(_length(value))
            if name == "model_config" and owner == self.file:
                self.config = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def _count(self, size: int) -> None:
        self.attribute_bytes += size
        if self.attribute_bytes > MOST_ATTRIBUTE_BYTES:
            raise Refusal("size", f"its attributes take more than {MOST_ATTRIBUTE_BYTES} bytes")


def _length(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return sum(len(one) for one in value.ravel().tolist() if isinstance(one, str | bytes))
    return len(value) if isinstance(value, str | bytes) else 0


def _read(dataset: Any) -> None:
    for place in _slabs(dataset.shape or (), dataset.dtype.itemsize):
        dataset[place]


def _slabs(shape: tuple[int, ...], itemsize: int) -> Iterator[Any]:
    if not shape or 0 in shape:
        yield ()
        return
    axis = 0 if int(np.prod(shape[1:], dtype=object)) * itemsize <= _SLAB else int(np.argmax(shape))
    row = int(np.prod(shape, dtype=object)) // shape[axis] * itemsize
    step = max(1, _SLAB // max(row, 1))
    for start in range(0, shape[axis], step):
        yield (*[slice(None)] * axis, slice(start, start + step))
