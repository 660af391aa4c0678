"""Hardware support for bfloat16 and float16 on this machine."""

from __future__ import annotations

from pathlib import Path

from kdcli.lazy import tf

_CPU_INFO = Path("/proc/cpuinfo")
# Flags of x86 processors that multiply bfloat16: matrix tiles, and 512-bit vectors.
_BFLOAT16 = ("amx_bf16", "avx512_bf16")
# The first compute capability whose tensor cores support a type.
_CAPABILITY = {"mixed_float16": (7, 0), "mixed_bfloat16": (8, 0)}


def read_processor_flags(path: Path = _CPU_INFO) -> tuple[str, ...]:
    """The processor flags for bfloat16 multiplication; empty where the system lists no flags."""
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return tuple(flag for flag in _BFLOAT16 if flag in flags)


def has_gpu() -> bool:
    """Whether TensorFlow sees a GPU."""
    return bool(tf.config.get_visible_devices("GPU"))


def is_fast_in(precision: str) -> bool:
    """Whether the hardware computes fast in `mixed_bfloat16` or `mixed_float16`: all GPUs, or else the CPU."""
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return precision == "mixed_bfloat16" and bool(read_processor_flags())
    found = [tf.config.experimental.get_device_details(gpu).get("compute_capability") for gpu in gpus]
    return all(capability and tuple(capability) >= _CAPABILITY[precision] for capability in found)
