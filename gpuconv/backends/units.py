"""Bytes and seconds as people read them."""

from __future__ import annotations


def in_bytes(count: float) -> str:
    """Return an amount of memory: ``"12 bytes"``, ``"3.4 MiB"``, ``"0.9 GiB"``."""
    if count < 1000:
        return f"{count:.0f} byte{'' if count == 1 else 's'}"
    for unit, size in (("KiB", 1024), ("MiB", 1024**2)):
        if count < 900 * size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024**3:.1f} GiB"


def in_seconds(seconds: float) -> str:
    """Return a short duration with three digits: ``"41.2 us"``, ``"1.23 ms"``, ``"2.50 s"``."""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 999.5:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds)} s"


def _three_digits(number: float) -> str:
    decimals = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{decimals}f}"
