"""Figures as people read them, and back. Bytes are binary (GiB); a file's size as told by a hub is decimal (GB)."""

from __future__ import annotations

import math
import re

KIB, MIB, GIB = 1024, 1024**2, 1024**3

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def format_bytes(count: float | None) -> str:
    """`7.4 GiB`, `812 MiB`, `3 KiB`; `n/a` for None."""
    if count is None:
        return "n/a"
    for size, unit in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(count) >= size:
            figure = count / size
            return f"{figure:.1f} {unit}" if figure < 100 else f"{figure:.0f} {unit}"
    return f"{int(count)} B"


def parse_bytes(text: str) -> int:
    """`24GiB`, `24G`, `512 MB`; a bare number is bytes. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a size: {text!r} (write it like 24GiB)")
    number, prefix, binary = match.groups()
    power = " kmgt".index(prefix.lower() or " ")
    # "24G" on a graphics card means GiB; only an explicit "GB" is decimal.
    decimal = prefix and not binary and text.strip().lower().endswith("b")
    return int(float(number) * (1000 if decimal else 1024) ** power)


def format_duration(seconds: float | None) -> str:
    """`1 h 12 m`, `3 m 20 s`, `12 s`, `0.4 s`, `40 ms`; `n/a` for None."""
    if seconds is None:
        return "n/a"
    if seconds <= 0:
        return "0 s"
    if seconds < 0.0995:
        return f"{math.ceil(seconds * 1000)} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} m"
    return f"{minutes} m {secs:02d} s" if minutes else f"{secs} s"


def format_count(count: int) -> str:
    """`412`, `7,512`, `3.1 M`, `8.0 B`: parameters, tokens, rows."""
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,}"


def format_share(share: float | None) -> str:
    """A share of one as a percentage: `71 %`; `n/a` for None."""
    return "n/a" if share is None else f"{share * 100:.0f} %"
