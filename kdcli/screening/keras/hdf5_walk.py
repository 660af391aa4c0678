"""A walk through an HDF5 file for the child process that reads it; it follows no link out of the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_MAX_OBJECTS, _MAX_LEVELS, _MAX_ATTRIBUTES = 100_000, 64, 100_000
# Keras stores the names of weights and the configuration as attributes.
_MAX_ATTRIBUTE_BYTES = 64_000_000
# How much a file may grow in memory: enough for values that compress well.
_SPARE_BYTES, _MAX_EXPANSION = 16_000_000, 30
# Deflate, shuffle, checksum, szip, n-bit, scale-offset, lzf; for any other filter HDF5 would load a plugin.
_FILTERS = frozenset((1, 2, 3, 4, 5, 6, 32000))
_SLAB_BYTES = 16_000_000
_MAX_FAULTS = 20


class Refusal(Exception):
    """A reason to refuse the file."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Walk:
    """Visits every object in a file once.

    Args:
        file: an open `h5py.File`.
        size: size of the file in bytes.

    Attributes:
        faults: reasons to refuse the file.
        values: number of values in all datasets.
        config: the configuration of the model, if there is one.
    """

    def __init__(self, file: Any, *, size: int) -> None:
        self.file, self.size = file, size
        self.faults: list[Refusal] = []
        self.values = self.declared = self.stored = self.attributes = self.attribute_bytes = 0
        self.seen: set[int] = set()
        self.datasets: list[Any] = []
        self.config: str | None = None

    def run(self) -> None:
        """Check every group, dataset and attribute, then read all values.

        Raises:
            Refusal: a reason that ends the walk.
        """
        self._walk_group(self.file, "/", 0)
        if self.declared > _SPARE_BYTES + _MAX_EXPANSION * self.size:
            raise Refusal("size", f"the weights need {self.declared:,} bytes, the file has {self.size:,}")
        if self.stored > self.size:
            raise Refusal("damaged", f"the weights occupy {self.stored:,} bytes, the file has {self.size:,}")
        if not self.faults:
            for dataset in self.datasets:
                _read_values(dataset)

    def _add_fault(self, rule: str, message: str) -> None:
        self.faults.append(Refusal(rule, message))
        if len(self.faults) >= _MAX_FAULTS:
            raise self.faults.pop()

    def _walk_group(self, group: Any, path: str, level: int) -> None:
        self._check_attributes(group, path)
        if level > _MAX_LEVELS:
            raise Refusal("damaged", f"groups are nested more than {_MAX_LEVELS} levels deep")
        if len(group) + len(self.seen) > _MAX_OBJECTS:
            raise Refusal("size", f"the file contains more than {_MAX_OBJECTS:,} objects")
        for name in group:
            self._check_entry(group, name, f"{path}{name}", level)

    def _check_entry(self, group: Any, name: str, path: str, level: int) -> None:
        import h5py

        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            external = isinstance(link, h5py.ExternalLink)
            target = f" to the file {link.filename!r:.80}" if external else ""
            rule = "external-link" if external else "soft-link"
            self._add_fault(rule, f"{path!r:.80} is a link{target}, not a weight")
            return
        item = group[name]
        number = h5py.h5o.get_info(item.id).addr
        if number in self.seen:
            self._add_fault("link-cycle", f"{path!r:.80} appears twice in the file")
            return
        self.seen.add(number)
        if len(self.seen) > _MAX_OBJECTS:
            raise Refusal("size", f"the file contains more than {_MAX_OBJECTS:,} objects")
        if isinstance(item, h5py.Group):
            self._walk_group(item, f"{path}/", level + 1)
        elif isinstance(item, h5py.Dataset):
            self._check_dataset(item, path)
        else:
            self._add_fault("type", f"{path!r:.80} is neither a group nor a dataset")

    def _check_dataset(self, dataset: Any, path: str) -> None:
        import h5py

        self._check_attributes(dataset, path)
        properties = dataset.id.get_create_plist()
        filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
        unknown = [code for code in filters if code not in _FILTERS]
        if properties.get_layout() == h5py.h5d.VIRTUAL:
            self._add_fault("virtual-dataset", f"{path!r:.80} is a virtual dataset with values elsewhere")
        elif properties.get_external_count():
            self._add_fault("external-storage", f"{path!r:.80} stores its values in another file")
        elif unknown:
            self._add_fault("filter", f"{path!r:.80} needs the filter plugin {unknown[0]}")
        elif dataset.dtype.kind not in "biufcSV" or dataset.dtype.names or dataset.dtype.subdtype:
            self._add_fault("type", f"{path!r:.80} holds {str(dataset.dtype)[:40]}, not numbers")
        else:
            shape = dataset.shape or ()
            count = int(np.prod([int(side) for side in shape], dtype=object))
            # Reading one value unpacks its whole chunk.
            chunk = int(np.prod([int(side) for side in dataset.chunks or ()], dtype=object))
            self.values += count
            self.declared += max(count, chunk) * dataset.dtype.itemsize
            self.stored += dataset.id.get_storage_size()
            self.datasets.append(dataset)

    def _check_attributes(self, owner: Any, path: str) -> None:
        import h5py

        count = h5py.h5a.get_num_attrs(owner.id)
        self.attributes += count
        if self.attributes > _MAX_ATTRIBUTES:
            raise Refusal("size", f"the file contains more than {_MAX_ATTRIBUTES:,} attributes")
        for index in range(count):
            attribute = h5py.h5a.open(owner.id, index=index)
            name = attribute.name.decode("utf-8", "replace")
            kind = attribute.get_type()
            self._count_attribute_bytes(attribute.get_space().get_simple_extent_npoints() * kind.get_size())
            text = isinstance(kind, h5py.h5t.TypeStringID)
            if not text and attribute.dtype.kind not in "biufSU":
                self._add_fault("type", f"the attribute {name!r:.80} of {path!r:.80} is neither text nor numbers")
                continue
            value = owner.attrs[name]
            if text:
                self._count_attribute_bytes(_text_bytes(value))
            if name == "model_config" and owner == self.file:
                self.config = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def _count_attribute_bytes(self, size: int) -> None:
        self.attribute_bytes += size
        if self.attribute_bytes > _MAX_ATTRIBUTE_BYTES:
            raise Refusal("size", f"the attributes take more than {_MAX_ATTRIBUTE_BYTES:,} bytes")


def _text_bytes(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return sum(len(one) for one in value.ravel().tolist() if isinstance(one, str | bytes))
    return len(value) if isinstance(value, str | bytes) else 0


def _read_values(dataset: Any) -> None:
    for place in _slabs(dataset.shape or (), dataset.dtype.itemsize):
        dataset[place]


def _slabs(shape: tuple[int, ...], itemsize: int) -> Iterator[Any]:
    if not shape or 0 in shape:
        yield ()
        return
    axis = 0 if int(np.prod(shape[1:], dtype=object)) * itemsize <= _SLAB_BYTES else int(np.argmax(shape))
    row = int(np.prod(shape, dtype=object)) // shape[axis] * itemsize
    step = max(1, _SLAB_BYTES // max(row, 1))
    for start in range(0, shape[axis], step):
        yield (*[slice(None)] * axis, slice(start, start + step))
