"""Any bytes, under any name, end in rows or in a refusal that names the file; and every record is found again."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from engine.config import DatasetSpec
from engine.datasets.base import Skipped, Unusable
from engine.datasets.readers import Reader, Record, find_reader
from engine.datasets.rows import choose_format, parse, read_rows
from engine.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md", "")
CHAT = [
    {"messages": [{"role": "user", "content": f"Où {number}?\n🙂"}, {"role": "assistant", "content": 'a "b", c'}]}
    for number in range(6)
]
FLAT = [{"prompt": f'p {number}\n"x"', "completion": "c, é; d\te"} for number in range(6)]


def table(delimiter: str) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, FLAT[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(FLAT)
    return file.getvalue().encode()


def columns(rows: list[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file, **options)
    return file.getvalue()


VALID = {
    ".jsonl": "\n".join(map(json.dumps, CHAT)).encode(),
    ".json": json.dumps(CHAT, ensure_ascii=False).encode(),
    ".pretty.json": json.dumps(CHAT, indent=1, ensure_ascii=False).encode(),
    ".csv": table(","),
    ".tsv": table("\t"),
    ".txt": "Ein Satz – noch einer.\n\n".encode() * 900,
    ".parquet": columns(CHAT),
    ".plain.parquet": columns(FLAT, compression="none", use_dictionary=False),
}
PIECES = [b"\n", b"\r", b'"', b",", b"{", b"}", b"[", b"]", b"\0", b"\xff", b"\xef\xbb\xbf", rb"\u0000", rb"\ud83d"]
PIECES += [b"1e999", b"NaN", b"\xf0\x9f", b"\xed\xa0\x80", b"\n\n", b" ", b"null", b"9" * 5000, b"[" * 2000]


@contextmanager
def data_file(content: bytes, suffix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{suffix}"
        path.write_bytes(content)
        yield path


@contextmanager
def names_the_file(path: Path) -> Iterator[None]:
    """A refusal may come, if it names the file."""
    try:
        yield
    except DataError as error:
        if path.name not in error.detail:
            raise


def read(path: Path) -> None:
    """Read a file as training would; a `DataError` names the file, and nothing else may be raised."""
    with names_the_file(path):
        for row in read_rows(path):
            assert row.messages or row.text.strip()


def look(path: Path) -> None:
    """Read a file as a scan would: all of it, each record judged and found again."""
    told: list[int] = []
    records: list[Record] | None = None
    with names_the_file(path):
        reader = find_reader(path)
        records = [record for block in reader.blocks(path, told.append) for record in block]
    if records is None:
        return  # refused as a whole
    chosen = choose_format(DatasetSpec(), path, reader)
    assert sum(told) == path.stat().st_size
    assert all(count >= 0 for count in told)
    for record in records:
        compare(record, reader, path)
        try:
            parse(record, chosen)
        except (Unusable, Skipped):
            continue
    assert [record.line for record in records] == sorted(record.line for record in records)


def compare(record: Record, reader: Reader, path: Path) -> None:
    again = reader.at(path, record.offset, record.line)
    assert (again.line, again.offset) == (record.line, record.offset)
    assert repr(again.value) == repr(record.value)
    if record.unusable:
        assert again.unusable
        assert (again.unusable.fault, again.unusable.detail) == (record.unusable.fault, record.unusable.detail)
    assert path.name in reader.place(path, record.line)


@given(
    st.binary(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join), st.sampled_from(SUFFIXES)
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_rows_or_a_refusal(content: bytes, suffix: str) -> None:
    with data_file(content, suffix) as path:
        read(path)
        look(path)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A valid file with a few bytes changed, put in, taken out, doubled or cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["change", "insert", "delete", "double", "cut"]))
        if kind == "change" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[at:at] = draw(st.sampled_from(PIECES))
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 20))]
        elif kind == "double":
            data[at:at] = data[max(0, at - draw(st.integers(1, 40))) : at]
        elif kind == "cut" and draw(st.booleans()):
            del data[at:]
    return bytes(data)


@pytest.mark.parametrize("suffix", VALID)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_ends_in_rows_or_a_refusal(suffix: str, data: st.DataObject) -> None:
    with data_file(data.draw(damaged(VALID[suffix])), suffix) as path:
        read(path)
        look(path)


asked_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))
told_texts = st.text("aé🙂\n\",;\t'| ", min_size=1)


@given(st.lists(st.tuples(asked_texts, told_texts), min_size=1, max_size=8))
@settings(max_examples=80, deadline=None)
def test_the_same_rows_come_out_of_every_container(pairs: list[tuple[str, str]]) -> None:
    rows = [{"prompt": asked, "completion": f"a{told}"} for asked, told in pairs]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    written = {
        ".jsonl": "\n".join(map(json.dumps, rows)).encode(),
        ".json": json.dumps(rows, indent=2, ensure_ascii=False).encode(),
        ".csv": file.getvalue().encode(),
        ".parquet": columns(rows),
    }
    found = []
    for suffix, content in written.items():
        with data_file(content, suffix) as path:
            found.append([row.messages for row in read_rows(path)])
    assert found[0] == [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        for row in rows
    ]
    assert all(messages == found[0] for messages in found)
