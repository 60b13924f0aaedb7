"""Parquet through pyarrow, row by row in small batches, also from one huge row group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from engine.datasets.faults import NOT_UTF8, TOO_LONG, UNREADABLE, Unusable
from engine.datasets.lines import MAX_LINE_BYTES, reading, shown
from engine.datasets.readers.base import OnBytes, Record, changed, file_row
from engine.errors import DataError
from engine.text import clean_line
from engine.units import MIB

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet as pq

_BATCH_ROWS = 128
_BATCH_BYTES = 4 * MIB
_PROBE_ROWS = 8


class Parquet:
    """A Parquet table. A line is a row, counted from 1; a bookmark is its index, counted from 0."""

    name = "Parquet"
    by_place = False

    def blocks(self, path: Path, on_bytes: OnBytes) -> Iterator[list[Record]]:
        """See `Reader`."""
        with reading(path) as file, _damage(path):
            table = _open(file)
            size, rows, told = file.seek(0, 2), table.metadata.num_rows, 0
            for block in _blocks(table, list(range(table.num_row_groups)), 0):
                yield block
                done = size * block[-1].line // max(rows, block[-1].line)
                on_bytes(done - told)
                told = done
            on_bytes(size - told)

    def at(self, path: Path, offset: int, line: int) -> Record:  # noqa: ARG002 – every reader's has it
        """See `Reader`."""
        with reading(path) as file, _damage(path):
            table = _open(file)
            first = 0
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if offset < first + rows:
                    records = (record for block in _blocks(table, [group], first) for record in block)
                    return next(record for record in records if record.offset == offset)
                first += rows
        raise changed(path)

    def place(self, path: Path, line: int) -> str:
        """`data.parquet:row 12`."""
        return file_row(path, line)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what pyarrow says of a table that it cannot read into a `DataError`."""
    import pyarrow as pa

    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        OverflowError,
        StopIteration,
    ) as error:
        detail = f"{shown(path)}: {clean_line(str(error)) or type(error).__name__}"
        hint = "Copy or download the file again: Parquet is damaged as a whole when a part is missing."
        raise DataError("The Parquet file cannot be read", detail, (hint,)) from error


def _open(file: BinaryIO) -> pq.ParquetFile:
    from pyarrow import parquet as pq

    table = pq.ParquetFile(file, buffer_size=MIB, pre_buffer=False)
    names = table.schema_arrow.names
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"several columns are called {min(twice)!r}")
    return table


def _blocks(table: pq.ParquetFile, groups: list[int], index: int) -> Iterator[list[Record]]:
    """The records of some row groups that follow each other, the first row of that index."""
    columns = _columns(table)
    rows = _batch_rows(table, groups, columns)
    for batch in table.iter_batches(rows, groups, columns=columns, use_threads=False):
        if batch.num_rows:
            yield _records(batch, index)
        index += batch.num_rows


def _batch_rows(table: pq.ParquetFile, groups: list[int], columns: list[str]) -> int:
    """So many rows that a batch is a few megabytes, by what is written in the file and by how large the first rows are.

    The two differ: a long text that stands in many rows is written once. Rows that are small at first and huge later,
    by such a repetition, can still make a batch as large as `_BATCH_ROWS` of them.
    """
    size = max((table.metadata.row_group(group).total_byte_size for group in groups), default=0)
    rows = max((table.metadata.row_group(group).num_rows for group in groups), default=0)
    probed = 0
    for count in (1, _PROBE_ROWS):
        if probed * count <= _BATCH_BYTES:
            first = next(table.iter_batches(count, groups, columns=columns, use_threads=False), None)
            probed = first.nbytes // max(first.num_rows, 1) if first else 0
            del first
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(size // max(rows, 1), probed, 1)))


def _columns(table: pq.ParquetFile) -> list[str]:
    """All columns but those of times, which hold nothing to learn and not always fit Python's types."""
    from pyarrow import types

    return [field.name for field in table.schema_arrow if not types.is_temporal(field.type)]


def _records(batch: pa.RecordBatch, index: int) -> list[Record]:
    """A batch's records; value by value only where one of them cannot be read."""
    if batch.nbytes <= MAX_LINE_BYTES:
        try:
            values = batch.to_pylist()
        except (ValueError, OverflowError):
            pass
        else:
            return [Record(index + i + 1, _plain(value), None, index + i) for i, value in enumerate(values)]
    return [_record(batch.slice(i, 1), index + i) for i in range(batch.num_rows)]


def _record(row: pa.RecordBatch, index: int) -> Record:
    bad = Unusable(TOO_LONG)
    if row.nbytes <= MAX_LINE_BYTES:
        try:
            return Record(index + 1, _plain(row.to_pylist()[0]), None, index)
        except UnicodeDecodeError:
            bad = Unusable(NOT_UTF8)
        except (ValueError, OverflowError) as error:
            bad = Unusable(UNREADABLE, str(error))
    return Record(index + 1, None, bad, index)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value if type(value) is str else _json_like(value) for name, value in row.items()}


def _json_like(value: Any) -> Any:
    """A value in JSON's types. A struct has every field that one row has: those that are null here go."""
    if isinstance(value, dict):
        return {key: _json_like(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_json_like(each) for each in value]
    if isinstance(value, bytes):  # old writers do not mark texts as such
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value
