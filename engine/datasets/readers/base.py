"""What a reader is: one container of rows (JSON Lines, CSV, Parquet …), read in blocks and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.datasets.faults import Unusable
from engine.errors import DataError
from engine.text import clean_line

BLOCK_ROWS = 128
"""Records in one block: so few that the garbage collector hardly ever sees them (1.5 times as fast as with 1,024)."""
MAX_VALUES = 500_000
"""Values in one row; each costs up to 100 bytes of memory."""

OnBytes = Callable[[int], None]


class Record(NamedTuple):
    """What a reader makes of one row of a file, before anything is known of its format."""

    line: int
    """Where it begins, counted from 1; the row's number, where rows have no lines of their own (Parquet)."""
    value: Any
    """What stands there, in Python's types for JSON; None if it is unusable."""
    unusable: Unusable | None
    """Why it cannot be read, if so."""
    offset: int
    """A bookmark for the same reader's `at()`."""


class Reader(Protocol):
    """One container of rows."""

    @property
    def name(self) -> str:
        """What people call it: `JSON Lines`, `CSV`."""

    @property
    def by_place(self) -> bool:
        """True if a bookmark is a place in the file, and so quickly found."""
        ...

    def blocks(self, path: Path, on_bytes: OnBytes) -> Iterator[list[Record]]:
        """Every record of a file, at most `BLOCK_ROWS` in a block; blank lines are left out.

        `on_bytes` is told how many bytes were newly consumed; in the end they add up to the file's size. Memory
        stays bounded whatever the file holds. Raises `DataError` if the file cannot be read at all.
        """
        ...

    def at(self, path: Path, offset: int, line: int) -> Record:
        """The record that `blocks` gave with that bookmark and line, again. Raises `DataError` if it is gone."""
        ...

    def place(self, path: Path, line: int) -> str:
        """`data.jsonl:12` or `data.parquet:row 12`, safe to show."""
        ...


def file_line(path: Path, line: int) -> str:
    """`data.jsonl:12`, safe to show."""
    return clean_line(f"{path.name}:{line}")


def file_row(path: Path, number: int) -> str:
    """`data.parquet:row 12`, safe to show."""
    return clean_line(f"{path.name}:row {number}")


def changed(path: Path) -> DataError:
    """The error for a bookmark at which nothing stands any more."""
    hint = "Check the data again: the file is not what it was."
    return DataError("The data file has changed while it was open", clean_line(str(path), 400), (hint,))
