"""TensorFlow's start: threads, determinism, seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdcli.errors import UsageError
from kdcli.lazy import keras, tf
from kdcli.models.custom_code import run_keras_code, select_kind_files


def start_tensorflow(
    *,
    threads: int | None,
    seed: int,
    code: Sequence[Path] = (),
    join: Callable[[], None] = lambda: None,
) -> None:
    """Load TensorFlow with fixed threads, deterministic operations and seeded generators, then the user's code.

    Args:
        threads: of TensorFlow.
        seed: of every generator.
        code: files to run.
        join: makes this process one of several; TensorFlow wants that before it does anything else.

    Raises:
        UsageError: TensorFlow already works with another number of threads, or a file of `code` fails.
    """
    if threads is not None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            if tf.config.threading.get_intra_op_parallelism_threads() != threads:
                raise _too_late(select_kind_files(code)) from None
    tf.config.experimental.enable_op_determinism()
    join()
    run_keras_code(code)
    keras.utils.set_random_seed(seed)


def _too_late(early: Sequence[Path]) -> UsageError:
    """Why the threads cannot be chosen any more; the user's own files are where TensorFlow may have started."""
    message = "threads can only be chosen before TensorFlow has started"
    if not early:
        return UsageError(message)
    files = ", ".join(str(file) for file in early)
    return UsageError(
        f"--code {files}: {message}, and this runs before that",
        hint="compute nothing there on import, only in classes and functions; or leave --threads out",
    )


def strategy_for(devices: str, joined: Any = None) -> Any:
    """That of all workers where they have joined; else all GPUs where there are several, or the default device."""
    if joined is not None:
        return joined
    gpus = len(tf.config.list_physical_devices("GPU"))
    if devices != "one" and gpus > 1:
        # Named: left to itself TensorFlow would take the devices of all that TF_CONFIG names.
        return tf.distribute.MirroredStrategy([f"GPU:{number}" for number in range(gpus)])
    return tf.distribute.get_strategy()


def device_record(strategy: Any) -> dict[str, Any]:
    """What computed: devices, replicas, threads."""
    return {
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "replicas": strategy.num_replicas_in_sync,
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
        "deterministic": True,
    }
