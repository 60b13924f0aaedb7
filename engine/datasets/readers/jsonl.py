"""JSON Lines: one JSON value a line, read by orjson, and judged by Python's own json where that refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson

from engine.datasets.faults import NOT_JSON, NOT_UTF8, NUL, TOO_DEEP, TOO_LONG, TOO_MANY, Unusable
from engine.datasets.lines import BOM, MAX_LINE_BYTES, line_blocks, reading
from engine.datasets.readers.base import BLOCK_ROWS, MAX_VALUES, OnBytes, Record, changed, file_line
from engine.units import MIB

LONG_NUMBER = "a number of more than 4,300 digits"
"""What Python's json refuses, with words about its own settings."""


class JsonLines:
    """A value a line. What is read fast and what is read exactly differ in one thing only: an integer beyond 64 bits
    that stands outside of a text becomes a float."""

    name = "JSON Lines"
    by_place = True

    def blocks(self, path: Path, on_bytes: OnBytes) -> Iterator[list[Record]]:
        """See `Reader`."""
        with reading(path) as file:
            for number, offset, lines in line_blocks(file, on_bytes):
                if lines is None:
                    yield [Record(number, None, Unusable(TOO_LONG), offset)]
                    continue
                for start in range(0, len(lines), BLOCK_ROWS):
                    some = lines[start : start + BLOCK_ROWS]
                    if block := _records(some, number + start, offset):
                        yield block
                    offset += sum(map(len, some)) + len(some)

    def at(self, path: Path, offset: int, line: int) -> Record:
        """See `Reader`."""
        with reading(path) as file:
            file.seek(offset)
            data = file.readline(MAX_LINE_BYTES + 2).removesuffix(b"\n")
        record = _record(data, line, offset)
        if record is None:
            raise changed(path)
        return record

    def place(self, path: Path, line: int) -> str:
        """See `Reader`."""
        return file_line(path, line)


def _records(lines: list[bytes], number: int, offset: int) -> list[Record]:
    """The records of lines that follow each other, the first of that number and offset in bytes.

    All at once, within C, if each line is one JSON value of usual size; else line by line.
    """
    sizes = list(map(len, lines))
    offsets = list(accumulate((size + 1 for size in sizes), initial=offset))
    longest = max(sizes)
    if not longest:
        return []
    if longest <= MIB:
        try:
            values = list(map(orjson.loads, lines))
        except orjson.JSONDecodeError:
            pass
        else:
            each = zip(range(number, number + len(lines)), values, offsets, strict=False)
            return [Record(line, value, None, at) for line, value, at in each]
    found = (_record(line, number + index, offsets[index]) for index, line in enumerate(lines))
    return [record for record in found if record is not None]


def _record(line: bytes, number: int, offset: int) -> Record | None:
    """One line's record; None for a blank line."""
    if offset == 0:
        line = line.removeprefix(BOM)
    if line.isspace() or not line:
        return None
    try:
        return Record(number, _value(line), None, offset)
    except Unusable as bad:
        # without its traceback, which would keep the line in memory
        return Record(number, None, bad.with_traceback(None), offset)


def _value(line: bytes) -> Any:
    if len(line) > MAX_LINE_BYTES:
        raise Unusable(TOO_LONG)
    if len(line) > MIB and too_many(line):
        raise Unusable(TOO_MANY)
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return exact_value(line)


def too_many(data: bytes) -> bool:
    """True if JSON might hold more values than a row may; what stands within texts is counted too."""
    return data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES


def exact_value(data: bytes) -> Any:
    """The value that JSON text holds, by Python's json, which takes NaN and lone surrogates. Raises `Unusable`."""
    if b"\0" in data:
        raise Unusable(NUL)
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Unusable(NOT_UTF8, f"byte {data[error.start]:#04x} at {error.start + 1}") from None
    except RecursionError:
        raise Unusable(TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise Unusable(NOT_JSON, f"{error.msg.removesuffix(' at')} at character {error.colno}") from None
    except ValueError:
        raise Unusable(NOT_JSON, LONG_NUMBER) from None
