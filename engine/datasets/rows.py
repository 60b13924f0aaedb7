"""From the records of a file to rows, strictly: the first row that cannot be used is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from engine.config import DatasetSpec
from engine.datasets import FORMATS, find_format
from engine.datasets.base import Format, Row, Skipped, Unusable, check_row
from engine.datasets.faults import NO_KEYS, NOT_OBJECT, PREFERENCE
from engine.datasets.formats.columns import columns_format
from engine.datasets.formats.fields import json_type
from engine.datasets.readers import Reader, Record, find_reader
from engine.errors import DataError, UsageError
from engine.text import clean_line

DETECTION_ROWS = 32


def read_rows(path: Path, spec_or_format: DatasetSpec | str = "auto") -> Iterator[Row]:
    """Each row of a file, in its order; rows that their own tool marked as not to be used are left out.

    Of a `DatasetSpec` only what says how a row is written is used, not its path. Raises `DataError`
    ("file:line: …") at the first unusable row.
    """
    spec = DatasetSpec(format=spec_or_format) if isinstance(spec_or_format, str) else spec_or_format
    reader = find_reader(path)
    format = choose_format(spec, path, reader)
    for block in reader.blocks(path, _quiet):
        for record in block:
            try:
                yield parse(record, format)
            except Skipped:
                continue
            except Unusable as bad:
                raise refusal(reader.place(path, record.line), bad) from None


def refusal(place: str, bad: Unusable) -> DataError:
    """The error for a row that cannot be used."""
    what = f"{bad.fault.one}: {clean_line(bad.detail)}" if bad.detail else bad.fault.one
    return DataError("The data cannot be used", f"{place}: {what}", (bad.fault.remedy,))


def parse(record: Record, format: Format | None) -> Row:
    """A record's row, checked. `format` None: no format fits the file. Raises `Unusable` or `Skipped`."""
    value = record.value
    if type(value) is not dict:
        bad = record.unusable or Unusable(NOT_OBJECT, f"it is {json_type(value)}")
        raise Unusable(bad.fault, bad.detail)  # a new one: its traceback leads to the record, which has the old one
    if format is None:
        raise Unusable(NO_KEYS, _keys(value))
    try:
        row = format.read(value, record.line)
    except Unusable as bad:
        raise _explained(bad, value, format) from None
    check_row(row)
    return row


def _keys(value: dict[str, Any]) -> str:
    """Which keys a row of no known format has; and what to do if it is no row, but an object around all rows."""
    lists = [key for key, inner in value.items() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
    named = f"its keys are {', '.join(map(repr, list(value)[:8])) or 'none'}"
    if len(lists) != 1:
        return named
    return f"{named}; if {lists[0]!r} holds the rows: jq -c '.[{json.dumps(lists[0])}][]' old > new"


def _explained(bad: Unusable, value: dict[str, Any], format: Format) -> Unusable:
    """The fault of a row; where keys are missing that another format has, that one is named."""
    if bad.fault is not NO_KEYS:
        return bad
    other = next((known for known in FORMATS.values() if known.detectable and known.matches(value)), None)
    if other is None or other is format:
        return bad
    if other.name == "preference":
        return bad if format.name == "chosen" else Unusable(PREFERENCE)
    return Unusable(NO_KEYS, f"it is written as {other.name}, the file as {format.name}")


def choose_format(spec: DatasetSpec, path: Path, reader: Reader) -> Format | None:
    """The format that a spec names, else the one that fits most of the first rows; None if none fits any.

    Raises `UsageError` for a format or columns that cannot be meant, `DataError` if the file cannot be read.
    """
    if spec.columns:
        if spec.format not in ("auto", "columns"):
            hint = "Leave out one of the two."
            raise UsageError("Columns and a format are two ways to say how a row is written", spec.format, (hint,))
        return columns_format(spec.columns)
    if spec.format != "auto":
        return find_format(spec.format)
    return _detect(path, reader)


def _detect(path: Path, reader: Reader) -> Format | None:
    votes = dict.fromkeys((name for name, known in FORMATS.items() if known.detectable), 0)
    for record in islice(chain.from_iterable(reader.blocks(path, _quiet)), DETECTION_ROWS):
        if isinstance(record.value, dict):  # what cannot be read is told of later, with its line
            for name in votes:
                votes[name] += FORMATS[name].matches(record.value)
    best = max(votes, key=votes.__getitem__)
    return FORMATS[best] if votes[best] else None


def _quiet(_: int) -> None:
    """Nobody asks for progress."""
