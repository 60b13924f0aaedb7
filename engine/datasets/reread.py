"""The rows of a scanned file once more: in slices for who counts them, or one by its place for who looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from engine.config import DatasetSpec
from engine.datasets.base import Format, Row, Skipped, Unusable
from engine.datasets.findings import parts
from engine.datasets.readers import Reader, Record
from engine.datasets.rowindex import RowIndex
from engine.datasets.rows import parse

SLICE_ROWS = 128
SLICE_CHARACTERS = 1 << 18
"""Rows, and characters of them, in one slice: a tenth of a second of tokenizing."""

Numbered = list[tuple[int, Row]]
"""Rows, each with its place in the index."""


class Reread:
    """A file that was scanned, or is being scanned. Its index says where each row stands."""

    def __init__(self, spec: DatasetSpec, reader: Reader, format: Format | None, index: RowIndex) -> None:
        self.path = Path(spec.path)
        self.reader = reader
        self.format = format
        self.index = index

    def place(self, at: int) -> str:
        """Where the row with this number stands: `data.jsonl:12`. Raises `IndexError`."""
        return self.line_place(self.index.line(at))

    def line_place(self, line: int) -> str:
        """`data.jsonl:12`."""
        return self.reader.place(self.path, line)

    def record(self, at: int) -> Record:
        """The record with this number. Raises `IndexError`, or `DataError` if the file changed."""
        return self.reader.at(self.path, self.index.offset(at), self.index.line(at))

    def row(self, record: Record) -> Row | None:
        """The record's row, if it is one to learn from."""
        try:
            return parse(record, self.format)
        except (Unusable, Skipped):
            return None

    def slices(self, sample: int | None = None) -> Iterator[tuple[int, Numbered]]:
        """The usable rows in slices, each with the number of records that are done; slices may be empty.

        `sample`: so many records spread evenly over the file. Raises `DataError` if the file is gone.
        """
        done = 0
        for records in self._records(sample):
            rows = [(at, row) for at, record in records if (row := self.row(record)) is not None]
            given = 0
            for some in _sliced(rows):
                given += len(some)
                yield done + (len(records) * given // len(rows) if rows else len(records)), some
            done += len(records)

    def _records(self, sample: int | None) -> Iterator[list[tuple[int, Record]]]:
        known = len(self.index)
        if sample is not None and sample < known and self.reader.by_place:
            chosen = iter(spread(known, sample))
            while some := list(islice(chosen, SLICE_ROWS)):
                yield [(at, self.record(at)) for at in some]
            return
        wanted = set(spread(known, sample)) if sample is not None and sample < known else None
        end = known if known < self.index.limit else None  # behind the limit there are rows that the index lacks
        at = 0
        for block in self.reader.blocks(self.path, lambda _bytes: None):
            numbered = list(enumerate(block, at))[: None if end is None else max(0, end - at)]
            at += len(block)
            yield [pair for pair in numbered if wanted is None or pair[0] in wanted]
            if end is not None and at >= end:
                return


def spread(rows: int, sample: int) -> list[int]:
    """So many of the numbers below `rows`, evenly: the middle of each of `sample` parts."""
    return [(2 * part + 1) * rows // (2 * sample) for part in range(sample)]


def _sliced(rows: Numbered) -> Iterator[Numbered]:
    """At least one slice, which may be empty."""
    some: Numbered = []
    held = 0
    for at, row in rows:
        some.append((at, row))
        held += characters(row)
        if len(some) == SLICE_ROWS or held > SLICE_CHARACTERS:
            yield some
            some, held = [], 0
    yield some


def characters(row: Row) -> int:
    """How long all of its texts are."""
    return sum(map(len, parts(row)))
