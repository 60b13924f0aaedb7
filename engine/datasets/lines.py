"""The lines of a file in bounded memory: a line larger than the cap is told of and skipped, never held whole."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from engine.errors import DataError
from engine.text import clean_line
from engine.units import MIB

MAX_LINE_BYTES = 16 * MIB
"""A row of text to learn from is a few kilobytes; a hundred thousand tokens are half a megabyte."""

BOM = b"\xef\xbb\xbf"

_BINARY = {
    b"\xff\xfe": ("UTF-16", "Save it as UTF-8: iconv -f UTF-16 -t UTF-8 old > new"),
    b"\xfe\xff": ("UTF-16", "Save it as UTF-8: iconv -f UTF-16 -t UTF-8 old > new"),
    b"\x1f\x8b": ("gzip-compressed", "Unpack it first: gunzip -k FILE"),
    b"PAR1": ("a Parquet table", "Write it as JSON Lines, for example with pandas: to_json(lines=True)."),
    b"PK\x03\x04": ("a ZIP archive", "Unpack it first: unzip FILE"),
}
"""First bytes of files that are mistaken for JSON Lines, what they are, and what to do."""


@dataclass(frozen=True)
class Line:
    """One line without its end; `data` is None if it is larger than the cap."""

    number: int
    data: bytes | None


def open_data(path: Path) -> BinaryIO:
    """Open a data file. Raises `DataError` if it is missing, not a plain file, not readable, or empty."""
    shown = clean_line(str(path), 400)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            hints = ("Name the file in it that holds the rows.",)
            raise DataError("The data path is a folder, not a file", shown, hints)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("The data path is not a plain file", shown, ("Write the rows to a file first.",))
        if status.st_size == 0:
            raise DataError("The data file is empty", shown, ("Write one JSON object per line into it.",))
        return path.open("rb")
    except FileNotFoundError:
        raise DataError("There is no such data file", shown, ("Check the path.",)) from None
    except PermissionError:
        hints = ("Make it readable for you: chmod u+r FILE",)
        raise DataError("The data file may not be read", shown, hints) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError("The data file cannot be read", f"{shown}: {clean_line(str(error))}") from error


def refuse_binary(path: Path, head: bytes) -> None:
    """Raise `DataError` if a file's first bytes are those of something that is not lines of JSON."""
    for magic, (name, remedy) in _BINARY.items():
        if head.startswith(magic):
            raise DataError(f"The data file is {name}, not JSON Lines", f"{clean_line(str(path), 400)}:1", (remedy,))
    if head.removeprefix(BOM).lstrip()[:1] == b"[":
        remedy = "Write one object per line: jq -c '.[]' old.json > new.jsonl"
        raise DataError("The data file is one JSON list, not JSON Lines", f"{clean_line(str(path), 400)}:1", (remedy,))


def read_lines(file: BinaryIO, on_bytes: Callable[[bytes], None] | None = None) -> Iterator[Line]:
    """Every line of a file opened at its start; a BOM is dropped, `on_bytes` sees each byte once, in order."""
    number = 0
    while piece := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if on_bytes:
            on_bytes(piece)
        if len(piece) > MAX_LINE_BYTES and not piece.endswith(b"\n"):
            _skip_line(file, on_bytes)
            yield Line(number, None)
            continue
        yield Line(number, piece.removeprefix(BOM) if number == 1 else piece)


def _skip_line(file: BinaryIO, on_bytes: Callable[[bytes], None] | None) -> None:
    while piece := file.readline(MIB):
        if on_bytes:
            on_bytes(piece)
        if piece.endswith(b"\n"):
            return
