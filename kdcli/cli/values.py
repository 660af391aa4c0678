"""Parsers for option values: counts and fractions, times, sizes."""

from __future__ import annotations

import re

from kdcli.errors import UsageError


def parse_limit(text: str | None) -> int | float | None:
    """Read `--limit`: `500` is a count, `0.1` a fraction."""
    if text is None:
        return None
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise UsageError(
            f"--limit must be a count such as 500 or a fraction such as 0.1, got {text!r}", hint="--limit 500"
        ) from None


def parse_time(text: str | None) -> float | None:
    """Read `--max-time` (`90s`, `30m`, `2h` or plain seconds), in seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match or float(match[1]) == 0:
        raise UsageError(f"--max-time must be a time such as 90s, 30m or 2h, got {text!r}", hint="--max-time 30m")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_bytes(text: str | None) -> int | None:
    """Read `--cache-limit` (`500MB`, `20GB` or plain bytes), in bytes; 1 MB is 10^6 bytes."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([kKMGT]?)B?", text)
    if not match:
        raise UsageError(
            f"--cache-limit must be a size such as 500MB or 20GB, got {text!r}", hint="--cache-limit 20GB"
        )
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))
