"""From the lines of a file to rows of messages, strictly: the first row that cannot be used is an error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.datasets import FORMATS, find_format
from engine.datasets.base import (
    NO_KEYS,
    NOT_JSON,
    NOT_OBJECT,
    NOT_UTF8,
    NUL,
    TOO_DEEP,
    TOO_LONG,
    Format,
    Message,
    Row,
    Unusable,
    check_turns,
    json_type,
)
from engine.datasets.lines import Line, open_data, read_lines, refuse_binary
from engine.errors import DataError
from engine.text import clean_line
from engine.units import MIB

DETECTION_ROWS = 32
DETECTION_BYTES = 4 * MIB


def read_rows(path: Path, format: str = "auto") -> Iterator[Row]:
    """Each row of a file; blank lines are skipped. Raises `DataError` ("file:line: …") at the first unusable one."""
    with open_data(path) as file:
        refuse_binary(path, file.read(4096))
        file.seek(0)
        chosen = detect(path) if format == "auto" else find_format(format)
        for line in read_lines(file):
            if is_blank(line):
                continue
            try:
                yield Row(line.number, parse_line(line, chosen))
            except Unusable as bad:
                what = f"{bad.fault.one}: {clean_line(bad.detail)}" if bad.detail else bad.fault.one
                place = clean_line(f"{path.name}:{line.number}")
                raise DataError("The data cannot be used", f"{place}: {what}", (bad.fault.remedy,)) from None


def is_blank(line: Line) -> bool:
    """True for a line of spaces only."""
    return line.data is not None and not line.data.strip()


def parse_line(line: Line, format: Format | None) -> list[Message]:
    """A line's messages, checked. `format` None: no format fits the file. Raises `Unusable`."""
    row = _parse_object(line)
    if format is None:
        raise Unusable(NO_KEYS, f"its keys are {', '.join(map(repr, list(row)[:8])) or 'none'}")
    if not format.matches(row):
        other = next((known.name for known in FORMATS.values() if known.matches(row)), None)
        if other is not None:
            raise Unusable(NO_KEYS, f"it is written as {other}, the file as {format.name}")
    messages = format.to_messages(row)
    check_turns(messages)
    return messages


def _parse_object(line: Line) -> dict[str, Any]:
    if line.data is None:
        raise Unusable(TOO_LONG)
    if b"\0" in line.data:
        raise Unusable(NUL)
    try:
        row = json.loads(line.data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Unusable(NOT_UTF8, f"byte {line.data[error.start]:#04x} at {error.start + 1}") from None
    except RecursionError:
        raise Unusable(TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise Unusable(NOT_JSON, f"{error.msg} at character {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits
        raise Unusable(NOT_JSON, str(error)) from None
    if not isinstance(row, dict):
        raise Unusable(NOT_OBJECT, f"it is {json_type(row)}")
    return row


def detect(path: Path) -> Format | None:
    """The format that fits most of the first rows; None if none fits any."""
    votes = dict.fromkeys(FORMATS, 0)
    with open_data(path) as file:
        for line in read_lines(file):
            if line.number > DETECTION_ROWS or file.tell() > DETECTION_BYTES:
                break
            for name in _votes(line):
                votes[name] += 1
    best = max(votes, key=votes.__getitem__)
    return FORMATS[best] if votes[best] else None


def _votes(line: Line) -> list[str]:
    try:
        row = _parse_object(line)
    except Unusable:
        return []  # the scan itself tells of it, with its line
    return [name for name, known in FORMATS.items() if known.matches(row)]


def fingerprint(messages: list[Message]) -> int:
    """64 bits that are equal for identical rows, whatever format they were written in."""
    text = json.dumps([[message["role"], message["content"]] for message in messages])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
