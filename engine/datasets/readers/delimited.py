"""CSV and TSV with a header: cells are texts, and may go over several lines when they are quoted."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from engine.datasets.faults import (
    BAD_CSV,
    CELL_NOT_JSON,
    CELLS,
    NOT_JSON,
    NOT_UTF8,
    NUL,
    OPEN_QUOTE,
    TOO_LONG,
    TOO_MANY,
    Unusable,
)
from engine.datasets.lines import CHUNK_BYTES, MAX_LINE_BYTES, Line, each_line, reading, shown
from engine.datasets.readers.base import BLOCK_ROWS, MAX_VALUES, OnBytes, Record, changed, file_line
from engine.datasets.readers.jsonl import exact_value
from engine.errors import DataError
from engine.text import clean_line
from engine.units import MIB

_DELIMITERS = ",;\t|"
_JSON_COLUMNS = ("messages", "conversations", "tools", "history")
"""Columns that hold lists: in CSV they are written as JSON text."""
_SEPARATOR = re.compile(rb'"?sep=([,;\t|])\1*"?\s*', re.I)
"""What Excel may write above the header: how the cells are divided."""
_LONGEST_NAME = 200
_MOST_COLUMNS = 10_000

csv.field_size_limit(2 * MAX_LINE_BYTES)  # a row is bounded here; Python's own limit is a cell of 128 KiB


class Delimited:
    """A table of texts. TSV is divided by tabs, CSV by whichever of `,` `;` tab and `|` divides the header most."""

    by_place = True

    def __init__(self, tabs: bool = False) -> None:
        self._tabs = tabs
        self.name = "TSV" if tabs else "CSV"

    def blocks(self, path: Path, on_bytes: OnBytes) -> Iterator[list[Record]]:
        """See `Reader`."""
        with reading(path) as file:
            header = self._header(path, file)
            block: list[Record] = []
            told = held = 0
            for record in _records(file, header, header.number, header.offset):
                block.append(record)
                if len(block) == BLOCK_ROWS or record.offset - held > CHUNK_BYTES:
                    on_bytes(record.offset - told)
                    told = held = record.offset
                    yield block
                    block = []
            if block:
                yield block
            on_bytes(file.seek(0, 2) - told)

    def at(self, path: Path, offset: int, line: int) -> Record:
        """See `Reader`."""
        with reading(path) as file:
            header = self._header(path, file)
            record = next(_records(file, header, line, offset), None)
        if record is None:
            raise changed(path)
        return record

    def place(self, path: Path, line: int) -> str:
        """See `Reader`."""
        return file_line(path, line)

    def _header(self, path: Path, file: BinaryIO) -> _Header:
        try:
            return _read_header(file, self._tabs)
        except (csv.Error, Unusable) as error:
            what = error.fault.one if isinstance(error, Unusable) else str(error)
            detail = f"{shown(path)}:1: {clean_line(what.removeprefix('row '))}"
            hint = "The first line names the columns, like: question,answer"
            remedies = (error.fault.remedy,) if isinstance(error, Unusable) else ()
            raise DataError(f"The header of the {self.name} file cannot be read", detail, (*remedies, hint)) from None


class _Header(NamedTuple):
    """The first row, and where the second begins."""

    names: list[str]
    nameless: int
    """Columns behind these that have no name, as spreadsheets write them: nothing may stand in them."""
    delimiter: str
    json: tuple[str, ...]
    """The names of those columns that hold JSON text."""
    number: int
    offset: int


class _Feed:
    """The lines for one csv.reader, and what is known of those that its current row is made of."""

    def __init__(self, lines: Iterator[Line], delimiter: str) -> None:
        self._lines = lines
        self._delimiter = delimiter.encode()
        self.begin()

    def begin(self) -> None:
        """A row begins."""
        self.first: Line | None = None
        self.second: Line | None = None
        self.bad: Unusable | None = None
        self._bytes = self._cells = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        data = line.data
        if self.first is None:
            self.first = line
        elif self.second is None:
            self.second = line
        if data is None:
            self.bad = Unusable(TOO_LONG)
            return "\n"
        self._bytes += len(data)
        if self._bytes > MIB:
            self._bound(data)
        if b"\0" in data:
            self.bad = Unusable(NUL)
        try:
            return data.decode() + "\n"
        except UnicodeDecodeError as error:
            self.bad = Unusable(NOT_UTF8, f"byte {data[error.start]:#04x} at {error.start + 1} of line {line.number}")
            return data.decode("utf-8", "replace") + "\n"

    def _bound(self, data: bytes) -> None:
        """Raise `Unusable` for a row that grows beyond all bounds."""
        self._cells += data.count(self._delimiter)
        if self._cells <= MAX_VALUES and self._bytes <= MAX_LINE_BYTES:
            return
        raise Unusable(TOO_MANY) if self.second is None else Unusable(OPEN_QUOTE, f"not within {self._bytes:,} bytes")


def _records(file: BinaryIO, header: _Header, number: int, offset: int) -> Iterator[Record]:
    """The rows from an offset on, where the line of that number begins.

    Behind a row that cannot be parsed, reading goes on at its second line: an open quote costs only its own row.
    """
    while True:
        file.seek(offset)
        feed = _Feed(each_line(file, _quiet, number), header.delimiter)
        rows = csv.reader(feed, delimiter=header.delimiter, strict=True)
        while True:
            feed.begin()
            try:
                cells = next(rows)
            except StopIteration:
                return
            except (csv.Error, Unusable) as error:
                yield _unreadable(feed, error)
                if feed.second is not None:
                    number, offset = feed.second.number, feed.second.offset
                    break
                continue
            if feed.bad is not None or any(map(str.strip, cells)):  # a spreadsheet's row of empty cells is a blank line
                yield _record(feed, cells, header)


def _unreadable(feed: _Feed, error: csv.Error | Unusable) -> Record:
    assert feed.first is not None  # only lines are at fault
    bad = error.with_traceback(None) if isinstance(error, Unusable) else _csv_fault(str(error))
    return Record(feed.first.number, None, feed.bad or bad, feed.first.offset)


def _csv_fault(message: str) -> Unusable:
    if "end of data" in message:
        return Unusable(OPEN_QUOTE, "up to the end of the file")
    return Unusable(BAD_CSV, message)


def _record(feed: _Feed, cells: Sequence[str], header: _Header) -> Record:
    assert feed.first is not None
    bad = feed.bad
    value: dict[str, Any] = {}
    named = len(header.names)
    if bad is None and len(cells) != named + header.nameless:
        bad = Unusable(CELLS, f"{len(cells):,} instead of {named + header.nameless:,}")
    if bad is None and any(map(str.strip, cells[named:])):
        bad = Unusable(CELLS, "the header has no name for the last of them")
    if bad is None:
        value = dict(zip(header.names, cells, strict=False))
        try:
            for name in header.json:
                value[name] = _parsed(name, value[name])
        except Unusable as broken:
            bad = broken.with_traceback(None)
    return Record(feed.first.number, value if bad is None else None, bad, feed.first.offset)


def _parsed(name: str, cell: str) -> Any:
    """The list that a cell holds as JSON text; None for an empty cell. Raises `Unusable`."""
    if not cell.strip():
        return None
    try:
        return orjson.loads(cell)
    except orjson.JSONDecodeError:
        try:
            return exact_value(cell.encode())
        except Unusable as bad:
            fault = CELL_NOT_JSON if bad.fault is NOT_JSON else bad.fault
            raise Unusable(fault, f"column {name!r}: {bad.detail}") from None


def _read_header(file: BinaryIO, tabs: bool) -> _Header:
    """Raises `csv.Error` or `Unusable` for a header that cannot be read."""
    lines = (line for line in each_line(file, _quiet) if line.data is None or line.data.strip())
    first = next(lines, None)
    told = _SEPARATOR.fullmatch(first.data) if first and first.data else None
    first = next(lines, None) if told else first
    if first is None:
        raise csv.Error("there are blank lines only")
    delimiter = told[1].decode() if told else "\t" if tabs else _delimiter(first)
    file.seek(first.offset)
    feed = _Feed(each_line(file, _quiet, first.number), delimiter)
    names = [name.strip() for name in next(csv.reader(feed, delimiter=delimiter, strict=True))]
    if feed.bad is not None:
        raise feed.bad
    given = len(names)
    while len(names) > 1 and not names[-1]:
        del names[-1]
    _check_names(names)
    after = next(feed._lines, None)
    end = file.seek(0, 2)
    json_columns = tuple(name for name in names if name in _JSON_COLUMNS)
    begin = (after.number, after.offset) if after else (2, end)
    return _Header(names, given - len(names), delimiter, json_columns, *begin)


def _delimiter(line: Line) -> str:
    """What divides the header into the most cells."""
    text = (line.data or b"").decode("utf-8", "replace")
    return max(_DELIMITERS, key=lambda delimiter: _count(text, delimiter))


def _count(text: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([text], delimiter=delimiter)))
    except csv.Error:
        return 0


def _check_names(names: list[str]) -> None:
    """Raise `csv.Error` unless each column has a name of its own; the first may lack one: pandas' index."""
    if len(names) > _MOST_COLUMNS:
        raise csv.Error(f"{len(names):,} columns")
    if "" in names[1:] or names == [""]:
        raise csv.Error(f"column {names.index('', min(1, len(names) - 1)) + 1} has no name")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise csv.Error(f"{count} columns are called {name!r}")
    if any(len(name) > _LONGEST_NAME for name in names) or all(_is_number(name) for name in names):
        raise csv.Error("it looks like a row, not like names of columns")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _quiet(_: int) -> None:
    """Bytes are told of row by row, as some are read twice."""
