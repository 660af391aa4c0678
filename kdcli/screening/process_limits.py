"""Resource limits that a child process sets for itself before it reads an untrusted file."""

from __future__ import annotations


def limit_process(*, memory: int, cpu_seconds: int, file_bytes: int = 0) -> None:
    """Limit this process permanently, including core dumps; does nothing on platforms without such limits.

    Args:
        memory: limit of data memory in bytes, not counting code.
        cpu_seconds: limit of CPU time; the system kills a process that exceeds it.
        file_bytes: size of the largest file it may write; 0 by default: it cannot write files.
    """
    try:
        import resource
    except ImportError:
        # Windows has no such limits; the parent's timeout still applies.
        return
    for kind, limit in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):
            # macOS refuses a limit below the current use.
            continue
