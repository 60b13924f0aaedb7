"""`finetui check DATA --fix OUT.jsonl`: a cleaned copy, and what was left out of it or repaired. The original stays."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import orjson

from engine.config import DatasetSpec, Frozen
from engine.datasets.base import Format, Row, check_row
from engine.datasets.faults import NUL, SURROGATE, TOO_LONG, TOO_MANY, Skipped, Unusable
from engine.datasets.findings import MAX_PLACES, Finding
from engine.datasets.findings.faults import SKIPPED, finding_of
from engine.datasets.findings.repeats import DUPLICATE
from engine.datasets.identity import fingerprint
from engine.datasets.lines import MAX_LINE_BYTES, shown
from engine.datasets.mend import STRAY, map_texts, mended_row, scrubbed
from engine.datasets.readers import Record, find_reader
from engine.datasets.readers.jsonl import too_many
from engine.datasets.readers.parquet import Parquet
from engine.datasets.rows import choose_format, parse
from engine.datasets.seen import Seen
from engine.datasets.utf8 import copy_as_utf8, is_clean
from engine.errors import DataError, FitError, UsageError
from engine.text import Text, clean_line
from engine.units import MIB

SUFFIXES = (".jsonl", ".ndjson", ".json")

OnProgress = Callable[[int, int], None]


class Fixed(Frozen):
    """A cleaned copy that was written, and how it differs from the original."""

    path: str
    rows: int
    """Rows written."""
    dropped: dict[Text, int]
    """Rows that were left out, by reason: "rows are not JSON"."""
    repaired: dict[Text, int]
    """Rows that were changed, by what was done to them; lines, where the bytes of the file were wrong."""
    places: dict[Text, tuple[Text, ...]]
    """For each reason, its first five places in the original."""

    def __str__(self) -> str:
        """`clean.jsonl: 7,512 rows written, 3 left out, 12 repaired`."""
        dropped, repaired = sum(self.dropped.values()), sum(self.repaired.values())
        return f"{clean_line(self.path)}: {self.rows:,} rows written, {dropped:,} left out, {repaired:,} repaired"


def fix(spec: DatasetSpec, target: Path, on_progress: OnProgress | None = None) -> Fixed:
    """Write the rows of `spec.path` that can be used to `target`, as JSON Lines of messages or of text.

    Left out: exact duplicates, rows that cannot be used, rows that their own tool leaves out. Repaired: bytes that are
    Windows-1252, texts that were decoded wrongly, stray characters. `on_progress` is called with bytes done and bytes
    in all. Memory stays bounded: 8 bytes a row beside what is being read.

    Raises `UsageError` if `target` cannot be meant (it is there already, it has another suffix), `DataError` if there
    is nothing to read or nothing left to write, `FitError` if the disk is full. Then no file is left behind.
    """
    source = Path(spec.path)
    reader = find_reader(source)
    _refuse_target(source, target)
    before, total = _state(source), source.stat().st_size
    notes = _Notes(lambda line: reader.place(source, line))
    done, readable = 0, source

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        if done > total and readable is source:  # it grows, perhaps without end
            raise _changed(source)
        if on_progress:
            on_progress(min(done, total), total)

    with _writing(target), _beside(target, "partial") as (partial, out), _beside(target, "utf8") as (plain, as_utf8):
        if not isinstance(reader, Parquet) and not is_clean(source):
            copy_as_utf8(source, as_utf8, notes.repaired)
            as_utf8.flush()
            readable = plain
        cleaner = _Cleaner(choose_format(spec, readable, reader), notes)
        for block in reader.blocks(readable, on_bytes):
            out.writelines(cleaner.lines(block))
        if not cleaner.rows:
            raise _nothing_left(source, notes)
        if _state(source) != before:
            raise _changed(source)
        out.flush()
        os.fsync(out.fileno())
        _publish(partial, target)
    return notes.fixed(target, cleaner.rows)


class _Notes:
    """What was left out and repaired, and where."""

    def __init__(self, place: Callable[[int], str]) -> None:
        self._place = place
        self._dropped: Counter[Finding] = Counter()
        self._repaired: Counter[str] = Counter()
        self._places: dict[Finding | str, list[str]] = {}
        self._last = (0, "")

    def dropped(self, line: int, finding: Finding) -> None:
        """Note a row that is left out."""
        self._dropped[finding] += 1
        self._at(finding, line)

    def repaired(self, line: int, how: str) -> None:
        """Note a row or a line that is changed; the same line in the same way counts once."""
        if self._last != (line, how):
            self._last = (line, how)
            self._repaired[how] += 1
            self._at(how, line)

    def _at(self, what: Finding | str, line: int) -> None:
        places = self._places.setdefault(what, [])
        if len(places) < MAX_PLACES:
            places.append(self._place(line))

    def first(self) -> tuple[str, Finding] | None:
        """Where and why the first row was left out; None if none was."""
        finding = next(iter(self._dropped), None)
        return None if finding is None else (self._places[finding][0], finding)

    def fixed(self, target: Path, rows: int) -> Fixed:
        """The account of what was done."""
        said = {finding: finding.one if count == 1 else finding.many for finding, count in self._dropped.items()}
        return Fixed(
            path=str(target),
            rows=rows,
            dropped={said[finding]: count for finding, count in self._dropped.items()},
            repaired=dict(self._repaired),
            places={
                what if isinstance(what, str) else said[what]: tuple(places) for what, places in self._places.items()
            },
        )


class _Cleaner:
    """Records in, lines of JSON out."""

    def __init__(self, format: Format | None, notes: _Notes) -> None:
        self.rows = 0
        self._format = format
        self._notes = notes
        self._seen = Seen()

    def lines(self, records: list[Record]) -> Iterator[bytes]:
        """The lines of those records that stay."""
        rows = [row for record in records if (row := self._row(record)) is not None]
        keys = list(map(fingerprint, rows))
        here: set[int] = set()
        for row, key, known in zip(rows, keys, self._seen.known(keys), strict=True):
            if known or key in here:
                self._notes.dropped(row.line, DUPLICATE)
            elif (line := self._line(row)) is not None:
                self.rows += 1
                here.add(key)
                yield line
        self._seen.extend(list(here))

    def _row(self, record: Record) -> Row | None:
        """The record's row, mended; None if it is left out."""
        try:
            row, how = self._mended(record)
            check_row(row)
        except Unusable as bad:
            self._notes.dropped(record.line, finding_of(bad.fault))
            return None
        except Skipped:
            self._notes.dropped(record.line, SKIPPED)
            return None
        if how:
            self._notes.repaired(record.line, how)
        return row

    def _mended(self, record: Record) -> tuple[Row, str]:
        try:
            row = parse(record, self._format)
        except Unusable as bad:
            if bad.fault not in (NUL, SURROGATE):
                raise
            row = parse(record._replace(value=map_texts(record.value, scrubbed)), self._format)
            return mended_row(row)[0], STRAY
        return mended_row(row)

    def _line(self, row: Row) -> bytes | None:
        """The row as a line that can be read again; None if it cannot."""
        value: dict[str, object] = {"messages": row.messages} if row.messages else {"text": row.text}
        if row.tools is not None:
            value["tools"] = row.tools
        try:
            line = orjson.dumps(value) + b"\n"
        except TypeError:  # an integer beyond 64 bits
            line = json.dumps(value, ensure_ascii=False, default=str).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES or (len(line) > MIB and too_many(line)):
            self._notes.dropped(row.line, finding_of(TOO_LONG if len(line) > MAX_LINE_BYTES else TOO_MANY))
            return None
        return line


def _nothing_left(source: Path, notes: _Notes) -> DataError:
    first = notes.first()
    if first is None:
        return DataError("There is no row to copy", shown(source))
    place, finding = first
    return DataError("No row can be used, so no copy was written", f"{place}: {finding.one}", (finding.remedy,))


def _changed(source: Path) -> DataError:
    hint = "Try again once nothing writes to it any more."
    return DataError("The data file changed while it was copied", shown(source), (hint,))


# ── the file ──


def _refuse_target(source: Path, target: Path) -> None:
    if _is_there(target):
        same = target.exists() and target.samefile(source)
        title = "The cleaned copy would overwrite the data" if same else "There is already such a file"
        raise UsageError(title, shown(target), ("Choose another name: nothing is overwritten.",))
    if target.suffix.lower() not in SUFFIXES:
        hint = f"Call it {clean_line(target.stem)}.jsonl"
        raise UsageError("The cleaned copy is JSON Lines; its name says something else", shown(target), (hint,))
    if not target.parent.is_dir():
        raise UsageError("There is no folder for the cleaned copy", shown(target.parent), ("Make it first.",))


def _is_there(target: Path) -> bool:
    try:
        target.lstat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _not_writable(target, str(error)) from error
    return True


def _not_writable(target: Path, why: str) -> UsageError:
    detail = f"{shown(target)}: {clean_line(why)}"
    return UsageError("The cleaned copy cannot be written", detail, ("Name a file that may be made.",))


def _state(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError("The data file cannot be read", f"{shown(path)}: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turns what goes wrong with writing into words; what goes wrong with reading is in words already."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hints = ("Free some room, or name a file on another disk.",)
            raise FitError("The disk is full; no copy was written", shown(target), hints) from error
        raise _not_writable(target, error.strerror or str(error)) from error


@contextmanager
def _beside(target: Path, kind: str) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside the target; it is gone afterwards, however that comes about."""
    path = target.with_name(f"{target.name}.{os.getpid()}.{kind}")
    with path.open("xb") as file:
        try:
            yield path, file
        finally:
            path.unlink(missing_ok=True)


def _publish(partial: Path, target: Path) -> None:
    """Give the finished file its name, unless something has taken that name meanwhile."""
    try:
        target.hardlink_to(partial)
    except FileExistsError:
        raise UsageError("There is already such a file", shown(target), ("Choose another name.",)) from None
    except OSError:  # a file system without hard links
        partial.rename(target)
