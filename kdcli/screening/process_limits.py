"""What a child process that reads a stranger's file may take; it sets these limits itself, before it reads."""

from __future__ import annotations


def limit_process(*, memory: int, cpu_seconds: int, file_bytes: int = 0) -> None:
    """Bound this process for good; a platform without such limits is left as it is.

    Args:
        memory: bytes of data, code not counted.
        cpu_seconds: of computing; a process that takes more is ended by the system.
        file_bytes: the largest file that it may write; none by default. No core is left behind either.
    """
    try:
        import resource
    except ImportError:
        # Windows has none; the parent's timeout still holds.
        return
    for kind, wanted in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):
            # macOS refuses a bound below what is already in use.
            continue
