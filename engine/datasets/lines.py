"""Opening a data file, and its lines in bounded memory: one that is larger than the cap is told of and skipped."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.errors import DataError
from engine.text import clean_line
from engine.units import MIB

MAX_LINE_BYTES = 16 * MIB
"""A row of text to learn from is a few kilobytes; a hundred thousand tokens are half a megabyte."""
CHUNK_BYTES = 256 * 1024

BOM = b"\xef\xbb\xbf"


def shown(path: Path) -> str:
    """A path, safe to show."""
    return clean_line(str(path), 400)


def open_data(path: Path) -> BinaryIO:
    """Open a data file. Raises `DataError` if it is missing, not a plain file, not readable, or empty."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            hints = ("Name the file in it that holds the rows.",)
            raise DataError("The data path is a folder, not a file", shown(path), hints)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("The data path is not a plain file", shown(path), ("Write the rows to a file first.",))
        if status.st_size == 0:
            raise DataError("The data file is empty", shown(path), ("Write one JSON object per line into it.",))
        return path.open("rb")
    except FileNotFoundError:
        raise DataError("There is no such data file", shown(path), ("Check the path.",)) from None
    except PermissionError:
        hints = ("Make it readable for you: chmod u+r FILE",)
        raise DataError("The data file may not be read", shown(path), hints) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError("The data file cannot be read", f"{shown(path)}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """What the system says, without the number and the path that Python puts around it."""
    return clean_line((isinstance(error, OSError) and error.strerror) or str(error))


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """A data file while it is read. Raises `DataError` as `open_data`, and for what goes wrong on the way."""
    with open_data(path) as file:
        try:
            yield file
        except OSError as error:
            hint = "Check the disk or the network drive that the file is on."
            raise DataError("The data file cannot be read", f"{shown(path)}: {_said(error)}", (hint,)) from error


class Lines(NamedTuple):
    """Some lines of a file that follow each other, without their ends."""

    number: int
    """Of the first, counted from 1."""
    offset: int
    """In bytes, of the first."""
    lines: list[bytes] | None
    """None: one line, larger than the cap."""


def line_blocks(file: BinaryIO, on_bytes: Callable[[int], None], number: int = 1) -> Iterator[Lines]:
    """Every line from where a file stands, which is the line of that number; a BOM at the file's start stays."""
    offset = file.tell()
    parts: list[bytes] = []  # of a line that has not ended yet
    held = 0
    while chunk := file.read(CHUNK_BYTES):
        on_bytes(len(chunk))
        if held:
            rest = chunk.find(b"\n") + 1
            held += rest or len(chunk)
            parts = [*parts, chunk[: rest - 1] if rest else chunk] if held <= MAX_LINE_BYTES else []
            if not rest:
                continue
            yield Lines(number, offset, [b"".join(parts)] if parts else None)
            number, offset, held, parts, chunk = number + 1, offset + held, 0, [], chunk[rest:]
        end = chunk.rfind(b"\n") + 1
        if end:
            lines = chunk[: end - 1].split(b"\n")
            yield Lines(number, offset, lines)
            number, offset = number + len(lines), offset + end
        if end < len(chunk):
            parts, held = [chunk[end:]], len(chunk) - end
    if held:
        yield Lines(number, offset, [b"".join(parts)] if parts else None)


class Line(NamedTuple):
    """One line without its end."""

    number: int
    offset: int
    data: bytes | None
    """None if it is larger than the cap."""


def each_line(file: BinaryIO, on_bytes: Callable[[int], None], number: int = 1) -> Iterator[Line]:
    """The same, line by line; a BOM at the file's start is dropped."""
    for first, offset, lines in line_blocks(file, on_bytes, number):
        if lines is None:
            yield Line(first, offset, None)
            continue
        for index, data in enumerate(lines):
            text = data.removeprefix(BOM) if offset == 0 else data
            yield Line(first + index, offset, text if len(text) <= MAX_LINE_BYTES else None)
            offset += len(data) + 1
