"""Examples that are in training and in test: a test on them measures memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from kdcli.data.examples import Examples

_EXAMPLES_PER_BLOCK = 1024


def count_duplicates(train: Examples, test: Examples) -> int:
    """How many test examples have the same inputs as some training example, bit for bit."""
    if train.shapes != test.shapes or train.dtypes != test.dtypes:
        return 0
    # The training part may be far larger: of its examples nothing is kept.
    tested = list(_digests(test))
    wanted = set(tested)
    seen = {digest for digest in _digests(train) if digest in wanted}
    return sum(digest in seen for digest in tested)


def _digests(examples: Examples) -> Iterator[bytes]:
    for start in range(0, len(examples), _EXAMPLES_PER_BLOCK):
        taken = examples.take(np.arange(start, min(start + _EXAMPLES_PER_BLOCK, len(examples))))
        columns = [np.ascontiguousarray(taken[name]) for name in sorted(taken)]
        for rows in zip(*columns, strict=True):
            digest = hashlib.blake2b(digest_size=16)
            for row in rows:
                digest.update(row.tobytes())
            yield digest.digest()
