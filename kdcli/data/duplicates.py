"""Examples with equal inputs: in the training and the test split they make a test measure memorization."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from kdcli.data.examples import Examples

_EXAMPLES_PER_BLOCK = 1024


def count_duplicates(train: Examples, test: Examples) -> int:
    """Count the test examples whose inputs equal those of a training example, bit for bit."""
    if train.shapes != test.shapes or train.dtypes != test.dtypes:
        return 0
    # The training split may be far larger, so only digests that also occur in the test split are stored.
    tested = list(_hash_examples(test))
    distinct = set(tested)
    seen = {digest for digest in _hash_examples(train) if digest in distinct}
    return sum(digest in seen for digest in tested)


def find_first_copies(examples: Examples) -> np.ndarray:
    """The position of the first example with the same inputs, for each example, (n,)."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, at) for at, digest in enumerate(_hash_examples(examples))])


def _hash_examples(examples: Examples) -> Iterator[bytes]:
    for start in range(0, len(examples), _EXAMPLES_PER_BLOCK):
        taken = examples.take(np.arange(start, min(start + _EXAMPLES_PER_BLOCK, len(examples))))
        columns = [np.ascontiguousarray(taken[name]) for name in sorted(taken)]
        for rows in zip(*columns, strict=True):
            digest = hashlib.blake2b(digest_size=16)
            for row in rows:
                digest.update(row.tobytes())
            yield digest.digest()
