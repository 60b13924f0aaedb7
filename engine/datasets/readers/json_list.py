"""A JSON list of rows, read as a stream: never more of it in memory than its longest row, on however few lines."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from engine.datasets.faults import BROKEN_LIST, NOT_UTF8, NUL, TOO_DEEP, TOO_LONG, TOO_MANY, Unusable
from engine.datasets.lines import BOM, CHUNK_BYTES, MAX_LINE_BYTES, reading
from engine.datasets.readers.base import BLOCK_ROWS, MAX_VALUES, OnBytes, Record, file_line, file_row
from engine.datasets.readers.jsonl import LONG_NUMBER
from engine.units import MIB

_SPACE = re.compile(r"[ \t\r\n]*")
_LONGEST_TOKEN = len("-Infinity")
_UNREAD = "the rest of the list is not read"
_decode = json.JSONDecoder().raw_decode


class JsonList:
    """A JSON list. Behind an element that cannot be parsed nothing can be trusted: it is the last record."""

    name = "JSON list"
    by_place = True

    def __init__(self, on_one_line: bool = False) -> None:
        """`on_one_line`: a record is told by its number, as its line says nothing."""
        self._numbered = on_one_line

    def blocks(self, path: Path, on_bytes: OnBytes) -> Iterator[list[Record]]:
        """See `Reader`."""
        with reading(path) as file:
            window = _Window(file, file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0), 1)
            block: list[Record] = []
            told = held = 0
            for number, record in enumerate(_elements(window, file), 1):
                block.append(record._replace(line=number) if self._numbered else record)
                if len(block) == BLOCK_ROWS or window.offset - held > CHUNK_BYTES:
                    on_bytes(window.offset - told)
                    told = window.offset
                    yield block
                    block, held = [], window.offset
            if block:
                yield block
            on_bytes(file.seek(0, 2) - told)

    def at(self, path: Path, offset: int, line: int) -> Record:
        """See `Reader`."""
        with reading(path) as file:
            expected = _before(file, offset) in (b"[", b",")
            file.seek(offset)
            window = _Window(file, offset, line)
            record = _element(window, file) if expected else _stray(window, file)
            return record._replace(line=line)

    def place(self, path: Path, line: int) -> str:
        """See `Reader`."""
        return file_row(path, line) if self._numbered else file_line(path, line)


class _Window:
    """The part of a file that is looked at: text from `at` on, and where in the file that is."""

    def __init__(self, file: BinaryIO, offset: int, line: int) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # what is not UTF-8 is told of later
        self.text, self.at = "", 0
        self.offset, self.line = offset, line
        self.ended = False
        self.clean = True
        """True while everything in the text was UTF-8."""

    def more(self) -> None:
        """Read on, doubling what is held up to the cap."""
        left = len(self.text) - self.at
        data = self._file.read(min(max(left, CHUNK_BYTES), max(MAX_LINE_BYTES - left, 1) + 1))
        self.ended = not data
        new = self._decoder.decode(data, final=self.ended)
        self.clean = (self.clean or not left) and (new.isascii() or _is_utf8(new))
        self.text, self.at = self.text[self.at :] + new, 0

    def move(self, end: int) -> None:
        """Go on to a position in the text."""
        self.line += self.text.count("\n", self.at, end)
        if self.text.isascii():
            self.offset += end - self.at
        else:
            self.offset += _bytes(self.text, self.at, end)
        self.at = end

    def next(self) -> str:
        """The first character that is no space, and go there; empty at the end of the file."""
        while True:
            found = _SPACE.match(self.text, self.at)
            self.move(found.end() if found else self.at)
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()


def _bytes(text: str, start: int, end: int) -> int:
    """How many bytes a part of a text was; piece by piece, as the part may be large."""
    pieces = (text[at : min(at + CHUNK_BYTES, end)] for at in range(start, end, CHUNK_BYTES))
    return sum(len(piece.encode("utf-8", "surrogateescape")) for piece in pieces)


def _elements(window: _Window, file: BinaryIO) -> Iterator[Record]:
    """Every element, and what is wrong with the list around them."""
    start = window.next()
    if start != "[":
        yield _broken(window, file, "expected [")
        return
    window.move(window.at + 1)
    if window.next() == "]":
        yield from _end(window, file)
        return
    while True:
        record = _element(window, file)
        yield record
        if record.unusable is not None and record.unusable.fault is not NOT_UTF8:
            return
        mark = window.next()
        if mark == "]":
            yield from _end(window, file)
            return
        if mark != ",":
            yield _stray(window, file)
            return
        window.move(window.at + 1)
        window.next()


def _end(window: _Window, file: BinaryIO) -> Iterator[Record]:
    window.move(window.at + 1)
    if window.next():
        yield _stray(window, file)


def _stray(window: _Window, file: BinaryIO) -> Record:
    """The record for a place behind an element or behind the list."""
    why = "expected a comma or the end of the list" if window.next() else "the list does not end"
    return _broken(window, file, why)


def _element(window: _Window, file: BinaryIO) -> Record:
    """The element that begins here; the window moves behind it, unless it cannot be parsed."""
    while True:
        error: Exception | None = None
        try:
            value, end = _decode(window.text, window.at)
            if end < len(window.text) or window.ended:  # else a number may go on
                return _taken(window, value, end)
        except (ValueError, RecursionError) as caught:
            error = caught
        torn = error is None or isinstance(error, json.JSONDecodeError)  # there may only be too little of it yet
        if not torn or window.ended or len(window.text) - window.at > MAX_LINE_BYTES:
            return _given_up(window, file, error)
        window.more()
        if len(window.text) > MIB and sum(map(window.text.count, ",[{")) > MAX_VALUES:
            return Record(window.line, None, Unusable(TOO_MANY, _UNREAD), window.offset)


def _given_up(window: _Window, file: BinaryIO, error: Exception | None) -> Record:
    if isinstance(error, RecursionError):
        return Record(window.line, None, Unusable(TOO_DEEP, _UNREAD), window.offset)
    if isinstance(error, json.JSONDecodeError):
        ends_early = error.msg.startswith("Unterminated") or error.pos >= len(window.text) - _LONGEST_TOKEN
        if window.ended or not ends_early:
            return _broken(window, file, error.msg, error.pos)
    elif error is not None:
        return Record(window.line, None, Unusable(BROKEN_LIST, LONG_NUMBER), window.offset)
    return Record(window.line, None, Unusable(TOO_LONG, _UNREAD), window.offset)


def _taken(window: _Window, value: Any, end: int) -> Record:
    line, offset = window.line, window.offset
    written = "" if window.clean else window.text[window.at : end]
    window.move(end)
    if written and not _is_utf8(written):
        return Record(line, None, Unusable(NOT_UTF8), offset)
    return Record(line, value, None, offset)


def _is_utf8(text: str) -> bool:
    """True if no byte of a decoded text was escaped; JSON's own escapes are ASCII."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _broken(window: _Window, file: BinaryIO, why: str, position: int | None = None) -> Record:
    """The record for a place at which the list cannot be read on: `position` in the text, or where the window is."""
    line, offset = window.line, window.offset
    if position is not None:
        window.move(max(position, window.at))
    where = f"line {_line(file, window.offset)}, column {_column(file, window.offset)}"
    nul = window.text[window.at : window.at + 1] == "\0"
    return Record(line, None, Unusable(NUL if nul else BROKEN_LIST, f"{why.removesuffix(' at')} at {where}"), offset)


def _line(file: BinaryIO, offset: int) -> int:
    """The line of an offset, counted from 1; reads the file up to there."""
    file.seek(0)
    ends = (file.read(min(CHUNK_BYTES, offset - start)).count(b"\n") for start in range(0, offset, CHUNK_BYTES))
    return 1 + sum(ends)


def _column(file: BinaryIO, offset: int) -> int:
    """The column of an offset, counted from 1 in characters; reads its line."""
    characters, end = 0, offset
    while end > 0:
        start = max(0, end - CHUNK_BYTES)
        file.seek(start)
        data = file.read(end - start).removeprefix(BOM if start == 0 else b"")
        newline = data.rfind(b"\n")
        data = data[newline + 1 :]
        characters += len(data) - sum(0x80 <= byte < 0xC0 for byte in data)  # a character's later bytes
        if newline >= 0:
            break
        end = start
    return characters + 1


def _before(file: BinaryIO, offset: int) -> bytes:
    """The last byte before an offset that is no space; empty at the start of the file."""
    while offset > 0:
        start = max(0, offset - CHUNK_BYTES)
        file.seek(start)
        data = file.read(offset - start).rstrip(b" \t\r\n")
        if data:
            return data[-1:]
        offset = start
    return b""
