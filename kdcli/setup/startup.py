"""Start TensorFlow: threads, determinism, seeds, devices."""

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
    """Load TensorFlow with deterministic operations and seeded generators, then run the user's code.

    Args:
        threads: number of threads TensorFlow uses; its own default when None.
        seed: RNG seed for every generator.
        code: the user's Python files.
        join: joins the other workers; TensorFlow requires that before any other operation.

    Raises:
        UsageError: TensorFlow has started with another number of threads, or a file of `code` fails.
    """
    if threads is not None:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            if tf.config.threading.get_intra_op_parallelism_threads() != threads:
                raise _threads_error(select_kind_files(code)) from None
    tf.config.experimental.enable_op_determinism()
    join()
    run_keras_code(code)
    keras.utils.set_random_seed(seed)


def _threads_error(early: Sequence[Path]) -> UsageError:
    """The error for threads set too late, naming the user's files that may have started TensorFlow."""
    message = "--threads must be set before TensorFlow starts"
    if not early:
        return UsageError(message)
    files = ", ".join(str(file) for file in early)
    return UsageError(
        f"{message}, and --code {files} runs before that",
        hint="run no TensorFlow operation there on import, only in classes and functions; or remove --threads",
    )


def strategy_for(devices: str, joined: Any = None) -> Any:
    """Return the workers' strategy if they have joined, else that of all GPUs, or of the default device."""
    if joined is not None:
        return joined
    gpus = len(tf.config.list_physical_devices("GPU"))
    if devices != "one" and gpus > 1:
        # Named explicitly: by default TensorFlow would use the devices of all workers in TF_CONFIG.
        return tf.distribute.MirroredStrategy([f"GPU:{number}" for number in range(gpus)])
    return tf.distribute.get_strategy()


def device_record(strategy: Any) -> dict[str, Any]:
    """Return the record of the devices: names, replicas, threads."""
    return {
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "replicas": strategy.num_replicas_in_sync,
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
        "deterministic": True,
    }
