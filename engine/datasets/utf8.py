"""Files that are not quite UTF-8: lines of Windows-1252 among others, and NUL bytes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from engine.datasets.lines import reading
from engine.units import MIB

_FOREIGN = re.compile("[^\x00-\x7f–—…•·°]{4}")
"""Four such characters in a row are no word of Western Europe: it was Cyrillic, Greek, Chinese …"""
_HIGH_SHARE = 0.3
"""So many of the characters that are no spaces may be beyond ASCII."""


def is_clean(path: Path) -> bool:
    """True if a file is UTF-8 without NUL bytes. Raises `DataError` if it cannot be read."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with reading(path) as file:
        try:
            while chunk := file.read(MIB):
                if b"\0" in chunk:
                    return False
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def copy_as_utf8(source: Path, target: BinaryIO, on_line: Callable[[int, str], None]) -> None:
    """Copy a file line by line, in UTF-8 and without NULs; `on_line` is told the number of a changed line, and how.

    A line that is neither UTF-8 nor Windows-1252 is copied as it is: its row cannot be used. Lines of more than a MiB
    are looked at in pieces of that size.
    """
    number = 1
    with reading(source) as file:
        while piece := _piece(file):
            plain = piece.replace(b"\0", b"")
            if len(plain) < len(piece):
                on_line(number, NULS)
            text = windows_1252(plain)
            if text is not None:
                on_line(number, WINDOWS)
            target.write(plain if text is None else text.encode())
            number += piece.endswith(b"\n")


NULS = "NUL characters taken out"
WINDOWS = "read as Windows-1252, not UTF-8"


def _piece(file: BinaryIO) -> bytes:
    """The next line, or a MiB of it that does not end within a character."""
    piece = file.readline(MIB)
    while piece and not piece.endswith(b"\n") and len(piece) < MIB + 4 and (more := file.peek(1)[:1]):  # type: ignore[attr-defined]
        if more < b"\x80" or more >= b"\xc0":
            break
        piece += file.read(1)
    return piece


def windows_1252(data: bytes) -> str | None:
    """What bytes say that are Windows-1252 where they are not UTF-8; None if they are UTF-8, or something else again.

    Every byte but five is a character of Windows-1252, so it is asked whether the text is one that people write:
    by ftfy's heuristic, and by how many of its letters are beyond ASCII.
    """
    try:
        data.decode()
        return None
    except UnicodeDecodeError:
        codecs.register_error("windows-1252", _as_windows_1252)
    try:
        text = data.decode("utf-8", "windows-1252")
    except UnicodeDecodeError:  # one of the five
        return None
    return text if _is_western(text) else None


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252"), error.end


def _is_western(text: str) -> bool:
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    written = sum(not character.isspace() for character in text)
    high = sum(character > "\x7f" for character in text)
    return high <= written * _HIGH_SHARE and not _FOREIGN.search(text) and not is_bad(fix_encoding(text))
