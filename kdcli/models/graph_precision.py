"""Computing in half precision inside graphs, whose operations have no policies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kdcli.lazy import tf

# TensorFlow's options that rewrite a graph when it is run: for processors, and for GPUs.
_OPTIONS = {"mixed_bfloat16": "auto_mixed_precision_onednn_bfloat16", "mixed_float16": "auto_mixed_precision"}


@contextmanager
def graphs_computing_in(precision: str) -> Iterator[None]:
    """Functions called in the block compute in `mixed_bfloat16` or `mixed_float16`; `float32` changes nothing.

    The option belongs to the call, not to the function: outside of the block the same function computes in
    float32 again, and so does every other. Keep the block around the calls that are meant.
    """
    if precision == "float32":
        yield
        return
    option = _OPTIONS[precision]
    before = tf.config.optimizer.get_experimental_options().get(option, False)
    tf.config.optimizer.set_experimental_options({option: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({option: before})
