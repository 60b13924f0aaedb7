"""One file being read through in slices: its usable rows block by block, what cannot be used, and its digest."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from engine.config import DatasetSpec
from engine.datasets.base import Row
from engine.datasets.faults import Skipped, Unusable
from engine.datasets.findings import Block, Finding, Ledger, make_block
from engine.datasets.findings.faults import SKIPPED, finding_of
from engine.datasets.readers import find_reader
from engine.datasets.readers.base import Record
from engine.datasets.rowindex import RowIndex
from engine.datasets.rows import choose_format, parse
from engine.errors import DataError
from engine.text import clean_line
from engine.units import MIB

SLICE_BYTES = 64 * MIB
"""What is hashed in one step once there is nothing left to read."""


class Digest:
    """The SHA-256 of a file, taken behind its reader: so its bytes come from the page cache, not twice from the disk.

    The file is opened for each part, so that nothing needs to be closed when a scan is given up.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sha256 = hashlib.sha256()
        self._before = self._state()
        self.size = self._before[0]
        self.done = 0
        """Bytes hashed."""

    def follow(self, count: int) -> None:
        """Hash the next `count` bytes. Raises `DataError` if they cannot be read."""
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(self.done)
                while count > 0 and (piece := file.read(min(count, MIB))):
                    self._sha256.update(piece)
                    self.done += len(piece)
                    count -= len(piece)
        except OSError as error:
            raise _unreadable(self._path, error) from error

    def finish(self) -> bool:
        """Hash a slice of what is left; False once nothing is. What was appended meanwhile is not waited for."""
        before = self.done
        self.follow(min(SLICE_BYTES, self.size - before))
        return self.done > before

    @property
    def grew(self) -> bool:
        """True if there was more to read than there was when the reading began."""
        return self.done > self.size

    def hexdigest(self) -> str:
        """Of what was hashed so far."""
        return self._sha256.hexdigest()

    def changed(self) -> bool:
        """True if the file is not what it was when the reading began."""
        return self._state() != self._before

    def _state(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise _unreadable(self._path, error) from error
        return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError("The data file cannot be read", f"{clean_line(str(path), 400)}: {error.strerror or error}")


class FilePass:
    """Reads one file once, a block at a step, and hands its usable rows on."""

    def __init__(
        self,
        path: Path,
        spec: DatasetSpec,
        see: Callable[[Block], None],
        index: RowIndex | None = None,
        max_rows: int | None = None,
    ) -> None:
        """`see` gets each block that has usable rows; `index` every record. Raises `DataError` and `UsageError`."""
        self.path = path
        self.reader = find_reader(path)
        self.format = choose_format(spec, path, self.reader)
        self.digest = Digest(path)
        self.ledger = Ledger(partial(self.reader.place, path), index)
        self.rows = 0
        """Usable rows so far."""
        self.skipped = 0
        self._records = 0
        self._max_rows = sys.maxsize if max_rows is None else max_rows
        self._see = see
        self._index = index
        self._blocks: Iterator[list[Record]] | None = self.reader.blocks(path, self.digest.follow)

    def step(self) -> bool:
        """Read on by a block, or hash on by a slice; False once the file is done. Raises `DataError`."""
        if self._blocks is None:
            return self.digest.finish()
        records = next(self._blocks, None)
        if records is None or self.rows >= self._max_rows or self.digest.grew:  # it may grow without end
            self._blocks = None
        else:
            self._take(records)
        return True

    def _take(self, records: list[Record]) -> None:
        first, room = self._records, self._max_rows - self.rows
        noted: list[tuple[Finding, int, int, str]] = []
        try:
            rows = [parse(record, self.format) for record in records[:room]]
            at: Sequence[int] = range(first, first + len(rows))
            records = records[:room]
        except (Unusable, Skipped):
            rows, at, noted, records = self._take_one_by_one(records, room)
        self._records += len(records)
        self.rows += len(rows)
        if self._index is not None:
            self._index.extend(list(map(_LINE, records)), list(map(_OFFSET, records)))
        for note in noted:
            self.ledger.add(*note)
        if rows:
            self._see(make_block(rows, at))

    def _take_one_by_one(self, records: list[Record], room: int) -> _Taken:
        """Where not every record of a block is a usable row; stops at the last row that there is room for."""
        taken = _Taken([], [], [], records)
        for place, record in enumerate(records):
            if len(taken.rows) >= room:
                return taken._replace(records=records[:place])
            try:
                taken.rows.append(parse(record, self.format))
                taken.at.append(self._records + place)
            except Unusable as bad:
                taken.noted.append((finding_of(bad.fault), self._records + place, record.line, bad.detail))
            except Skipped as left_out:
                self.skipped += 1
                taken.noted.append((SKIPPED, self._records + place, record.line, left_out.reason))
        return taken


class _Taken(NamedTuple):
    rows: list[Row]
    at: list[int]
    noted: list[tuple[Finding, int, int, str]]
    records: list[Record]


_LINE = attrgetter("line")
_OFFSET = attrgetter("offset")
