"""Plain text, to continue pretraining on: sections of about 8,000 characters, cut where a blank line is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engine.datasets.faults import NOT_UTF8, Unusable
from engine.datasets.lines import BOM, CHUNK_BYTES, reading
from engine.datasets.readers.base import BLOCK_ROWS, OnBytes, Record, changed, file_line

SECTION_CHARACTERS = 8_000
"""About 2,000 tokens. A section ends at the first blank line behind so many characters …"""
LONGEST_SECTION = 16_000
"""… but at the latest here: at the end of a line, or of a word if the line itself is longer."""

_WINDOW_BYTES = 4 * LONGEST_SECTION  # a character takes at most four bytes
_BLANK_LINES = re.compile(rb"(?:[ \t\r]*\n)*")
_PARAGRAPH_END = re.compile(r"\n[ \t\r]*\n")


class Plain:
    """A text. Each record's value is `{"text": …}`, one section."""

    name = "plain text"
    by_place = True

    def blocks(self, path: Path, on_bytes: OnBytes) -> Iterator[list[Record]]:
        """See `Reader`."""
        with reading(path) as file:
            block: list[Record] = []
            told = 0
            for record in _sections(file, 0, 1):
                block.append(record)
                if len(block) == BLOCK_ROWS or record.offset - told > CHUNK_BYTES:
                    on_bytes(record.offset - told)
                    told = record.offset
                    yield block
                    block = []
            if block:
                yield block
            on_bytes(file.seek(0, 2) - told)

    def at(self, path: Path, offset: int, line: int) -> Record:
        """See `Reader`."""
        with reading(path) as file:
            record = next(_sections(file, offset, line), None)
        if record is None:
            raise changed(path)
        return record

    def place(self, path: Path, line: int) -> str:
        """See `Reader`."""
        return file_line(path, line)


def _sections(file: BinaryIO, offset: int, line: int) -> Iterator[Record]:
    """The sections from an offset on, where the line of that number is; each follows from the bytes behind it only."""
    file.seek(offset)
    data = b""
    while True:
        data += file.read(max(0, _WINDOW_BYTES - len(data)))
        if offset == 0 and data.startswith(BOM):
            data, offset = data[len(BOM) :], len(BOM)
        if not data:
            return
        blank = _BLANK_LINES.match(data)
        used = blank.end() if blank else 0
        if not used:
            text, used = _section(data, ended=len(data) < _WINDOW_BYTES)
            if not used:
                yield Record(line, None, Unusable(NOT_UTF8), offset)
                data, skipped = _to_line_end(file, data)
                offset += skipped
                used = data.find(b"\n") + 1 or len(data)
            elif text.strip():
                yield Record(line, {"text": text.rstrip().replace("\r\n", "\n")}, None, offset)
        line += data.count(b"\n", 0, used)
        offset += used
        data = data[used:]


def _section(data: bytes, ended: bool) -> tuple[str, int]:
    """The first section of the bytes, and how many of them it takes: none if its first line is not UTF-8."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and not ended:
            text = data[: error.start].decode()  # the window ends within a character
        else:
            text, ended = data[: data.rfind(b"\n", 0, error.start) + 1].decode(), True  # up to the line that is bad
    end = _cut(text, ended)
    return text[:end], len(text[:end].encode())


def _cut(text: str, ended: bool) -> int:
    """Where the first section of a text ends; `ended`: nothing that belongs to it stands behind the text."""
    paragraph = _PARAGRAPH_END.search(text, SECTION_CHARACTERS, LONGEST_SECTION)
    if paragraph:
        return paragraph.end()
    if ended and len(text) <= LONGEST_SECTION:
        return len(text)
    ends = (text.rfind(mark, 0, LONGEST_SECTION) + 1 for mark in "\n ")
    return next(filter(None, ends), min(len(text), LONGEST_SECTION))


def _to_line_end(file: BinaryIO, data: bytes) -> tuple[bytes, int]:
    """A bad line's last bytes, from the file if they are not among the data; and how many are skipped before."""
    skipped = 0
    while b"\n" not in data:
        more = file.read(CHUNK_BYTES)
        if not more:
            break
        skipped += len(data)
        data = more
    return data, skipped
