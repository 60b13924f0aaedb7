"""Are these still the files that were read? What is known of data is known of one state of their files."""

from __future__ import annotations

from engine.config import DatasetSpec
from engine.paths import absolute

Stamp = tuple[tuple[int, int] | None, ...]
"""Of each file its size in bytes and when it was last written (ns); None where there is none."""


def stamp(data: DatasetSpec) -> Stamp:
    """The state of the files that these data are read from."""
    return tuple(_state(path) for path in (data.path, data.eval_path, data.gold_path, data.mix_path) if path)


def _state(path: str) -> tuple[int, int] | None:
    try:
        status = absolute(path).stat()
    except (OSError, ValueError):  # not there, or a name that no file can have
        return None
    return status.st_size, status.st_mtime_ns
