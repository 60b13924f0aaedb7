"""Readers: the same rows from every container, each fault at its line, every record found again, bounded memory."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.datasets import faults
from engine.datasets.lines import MAX_LINE_BYTES
from engine.datasets.readers import BLOCK_ROWS, Record, find_reader
from engine.datasets.readers.base import MAX_VALUES
from engine.datasets.readers.jsonl import too_many
from engine.datasets.readers.plain import LONGEST_SECTION, SECTION_CHARACTERS
from engine.datasets.rows import read_rows
from engine.errors import DataError
from engine.units import MIB

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "datasets" / "containers"
ROWS = [
    ("Hi", "Hello!"),
    ('Say "yes",\nin two lines', "Yes;\nyes\ttoo"),
    ("Où est Łódź?", "En Pologne 🙂"),
]
MESSAGES = [[{"role": "user", "content": asked}, {"role": "assistant", "content": told}] for asked, told in ROWS]


def records(path: Path) -> list[Record]:
    """Every record of a file; also checks what holds for every file."""
    reader = find_reader(path)
    told: list[int] = []
    blocks = list(reader.blocks(path, told.append))
    assert sum(told) == path.stat().st_size
    assert all(0 < len(block) <= BLOCK_ROWS for block in blocks)
    found = [record for block in blocks for record in block]
    for record in found:
        again = reader.at(path, record.offset, record.line)
        assert judged(again) == judged(record)
    return found


def judged(record: Record) -> tuple[Any, ...]:
    bad = record.unusable
    return record.line, record.offset, repr(record.value), bad and (bad.fault, bad.detail)


def ignore(_: int) -> None:
    pass


def write_table(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def peak(path: Path) -> int:
    """Bytes that reading a file takes at most, as far as Python's own allocator knows."""
    tracemalloc.start()
    for _ in find_reader(path).blocks(path, ignore):
        pass
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


# ── the same rows from every container ──


@pytest.mark.parametrize(
    ("name", "container", "lines"),
    [
        ("good.jsonl", "JSON Lines", [1, 2, 3]),
        ("good.ndjson", "JSON Lines", [1, 4, 5]),
        ("good.lines.json", "JSON Lines", [1, 2, 3]),
        ("good.json", "JSON list", [1, 2, 3]),
        ("good.pretty.json", "JSON list", [3, 7, 11]),
        ("good.list.jsonl", "JSON list", [1, 2, 3]),
        ("good.csv", "CSV", [2, 3, 6]),
        ("good.semicolon.csv", "CSV", [2, 3, 6]),
        ("good.pandas.csv", "CSV", [2, 3, 6]),
        ("good.messages.csv", "CSV", [2, 3, 4]),
        ("good.tsv", "TSV", [2, 3, 6]),
    ],
)
def test_a_good_container_gives_the_rows_with_their_lines(name: str, container: str, lines: list[int]) -> None:
    assert find_reader(SAMPLES / name).name == container
    assert [row.messages for row in read_rows(SAMPLES / name)] == MESSAGES
    assert [record.line for record in records(SAMPLES / name)] == lines


@pytest.mark.parametrize("name", ["data.parquet", "data", "data.pq"])
def test_parquet_gives_the_same_rows_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / name, [{"prompt": asked, "completion": told} for asked, told in ROWS])
    assert find_reader(path).name == "Parquet"
    assert [row.messages for row in read_rows(path)] == MESSAGES
    assert [record.line for record in records(path)] == [1, 2, 3]


def test_nested_parquet_gives_turns_without_the_nulls_of_other_rows(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Łódź"}'}}
    asked = {"role": "user", "content": "Weather?"}
    turns = [asked, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "Rain"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": "It rains."}]}, *({"messages": m} for m in MESSAGES)]
    path = write_table(tmp_path / "data.parquet", rows)
    first, *rest = [row.messages for row in read_rows(path)]
    assert rest == MESSAGES
    assert first[1].get("tool_calls") == [{**call, "function": {"name": "weather", "arguments": {"city": "Łódź"}}}]
    assert first[2] == {"role": "tool", "content": "Rain"}


def test_a_parquet_bookmark_finds_its_row_in_any_row_group(tmp_path: Path) -> None:
    path = write_table(tmp_path / "data.parquet", [{"text": f"text {i}"} for i in range(1000)], row_group_size=300)
    assert [record.value["text"] for record in records(path)[299:301]] == ["text 299", "text 300"]
    assert find_reader(path).place(path, 12) == "data.parquet:row 12"


def test_plain_text_is_one_section_if_it_is_short() -> None:
    (record,) = records(SAMPLES / "book.txt")
    text = "The Louvre was a fortress.\nThen it was a palace.\n\n   \nToday it is a museum."
    assert (record.line, record.value) == (3, {"text": text})
    (notes,) = read_rows(SAMPLES / "notes.md")
    assert notes.text == "# Notes\n\nThe Louvre is in Paris."


def test_plain_text_is_cut_at_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    paragraph = "A line of a paragraph.\n" * 100
    path.write_text("\n".join([paragraph] * 40), "utf-8")
    texts = [record.value["text"] for record in records(path)]
    assert "\n\n".join(texts) == "\n".join([paragraph] * 40).rstrip()
    assert all(SECTION_CHARACTERS - 10 <= len(text) <= SECTION_CHARACTERS + len(paragraph) for text in texts[:-1])
    assert [record.line for record in records(path)][:2] == [1, 1 + 4 * 101]


@pytest.mark.parametrize(
    ("text", "together"), [("word " * 20_000, " "), ("line\n" * 20_000, "\n"), ("x" * 100_000, "")]
)
def test_plain_text_without_blank_lines_is_cut_at_a_line_or_a_word(tmp_path: Path, text: str, together: str) -> None:
    path = tmp_path / "book.txt"
    path.write_text(text, "utf-8")
    texts = [record.value["text"] for record in records(path)]
    assert all(len(part) <= LONGEST_SECTION for part in texts)
    assert together.join(texts) == text.rstrip()


# ── faults ──

BROKEN = [
    ("broken.torn.jsonl", 2, faults.NOT_JSON, "Unterminated string"),
    ("broken.latin1.jsonl", 2, faults.NOT_UTF8, "byte 0xfc at 15"),
    ("broken.nul.jsonl", 3, faults.NUL, ""),
    ("broken.list.jsonl", 2, faults.NOT_OBJECT, "a list"),
    ("broken.turns.jsonl", 1, faults.NOT_OBJECT, "a list"),
    ("broken.torn.json", 3, faults.BROKEN_LIST, "at line 4, column 1"),
    ("broken.comma.json", 3, faults.BROKEN_LIST, "expected a comma or the end of the list at line 3, column 1"),
    ("broken.trailing.json", 3, faults.BROKEN_LIST, "at line 3, column 1"),
    ("broken.two.json", 4, faults.BROKEN_LIST, "at line 4, column 1"),
    ("broken.single_quotes.json", 3, faults.BROKEN_LIST, "at line 3, column 2"),
    ("broken.latin1.json", 3, faults.NOT_UTF8, ""),
    ("broken.number.json", 3, faults.NOT_OBJECT, "a number"),
    ("broken.open_quote.csv", 3, faults.OPEN_QUOTE, "end of the file"),
    ("broken.stray_quote.csv", 3, faults.BAD_CSV, ""),
    ("broken.cells.csv", 4, faults.CELLS, "3 instead of 2"),
    ("broken.few_cells.tsv", 3, faults.CELLS, "1 instead of 2"),
    ("broken.latin1.csv", 3, faults.NOT_UTF8, "0xfc"),
    ("broken.nul.csv", 2, faults.NUL, ""),
    ("broken.repr.csv", 2, faults.CELL_NOT_JSON, "column 'messages'"),
    ("broken.empty_answer.csv", 3, faults.EMPTY_ANSWER, ""),
    ("broken.latin1.txt", 3, faults.NOT_UTF8, ""),
]


@pytest.mark.parametrize(("name", "line", "fault", "said"), BROKEN, ids=[case[0] for case in BROKEN])
def test_a_broken_container_is_refused_with_the_line_and_the_remedy(
    name: str, line: int, fault: faults.Fault, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        list(read_rows(SAMPLES / name))
    assert caught.value.detail.startswith(f"{name}:{line}: {fault.one}")
    assert said in caught.value.detail
    assert caught.value.hints == (fault.remedy,)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("broken.torn.jsonl", [1, 3]),
        ("broken.latin1.json", [2, 4]),
        ("broken.open_quote.csv", [2, 4, 5]),
        ("broken.stray_quote.csv", [2, 4]),
        ("broken.cells.csv", [2, 5]),
        ("broken.latin1.txt", [1, 5]),
        ("broken.torn.json", [2]),
        ("broken.comma.json", [1, 2]),
    ],
)
def test_a_fault_costs_its_own_row_only_unless_it_is_a_broken_list(name: str, good: list[int]) -> None:
    found = records(SAMPLES / name)
    assert [record.line for record in found if record.unusable is None] == good
    assert sum(record.unusable is not None for record in found) == 1


@pytest.mark.parametrize(
    ("name", "said", "remedy"),
    [
        ("broken.object.json", "one JSON object over several lines", """jq -c '.["data"][]'"""),
        ("broken.one.json", "one JSON object over several lines", "jq -c '.'"),
        ("broken.twice.csv", "2 columns are called 'text'", "names the columns"),
        ("broken.unnamed.csv", "column 2 has no name", "names the columns"),
        ("broken.numbers.csv", "looks like a row", "names the columns"),
        ("broken.no_header.csv", "looks like a row", "names the columns"),
        ("broken.page.jsonl", "web page", "download it again"),
        ("broken.pointer.jsonl", "Git LFS pointer", "git lfs pull"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_refused_at_once(name: str, said: str, remedy: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        list(read_rows(SAMPLES / name))
    assert name in caught.value.detail
    assert any(remedy in hint for hint in caught.value.hints)


def sheet(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return path.read_bytes()


FOREIGN: list[tuple[str, Callable[[Path], bytes], str, str]] = [
    ("data.jsonl", lambda _: b"", "empty", ""),
    ("data.jsonl", lambda _: '{"a": 1}'.encode("utf-16"), "UTF-16", "iconv"),
    ("data.jsonl", lambda _: '{"a": 1}'.encode("utf-16-le"), "UTF-16", "iconv"),
    ("data.csv", lambda _: "a,b\nc,d\n".encode("utf-16-be"), "UTF-16", "iconv"),
    ("data.jsonl", lambda _: '{"a": 1}'.encode("utf-32"), "UTF-32", "iconv"),
    ("data.jsonl.gz", lambda _: gzip.compress(b"{}"), "gzip", "gunzip"),
    ("data.jsonl", lambda _: lzma.compress(b"{}"), "xz", "unxz"),
    ("data.jsonl", lambda _: bz2.compress(b"{}"), "bzip2", "bunzip2"),
    ("data.jsonl.zst", lambda _: b"\x28\xb5\x2f\xfd....", "Zstandard", "unzstd"),
    ("data.jsonl", lambda _: b"PK\x03\x04....", "ZIP", "unzip"),
    ("data.xlsx", lambda _: b"PK\x03\x04....", "Excel", "CSV"),
    ("data.csv", sheet, "Excel", "CSV"),
    ("data.docx", lambda _: b"PK\x03\x04....", "Word", "plain text"),
    ("data.db", lambda _: b"SQLite format 3\x00....", "SQLite", "sqlite3"),
    ("data.pdf", lambda _: b"%PDF-1.7", "PDF", "pdftotext"),
    ("data.arrow", lambda _: b"ARROW1\x00\x00", "Arrow", "Parquet"),
    ("data-00000-of-00001.arrow", lambda _: b"\xff\xff\xff\xff\x00", "Arrow stream", "folder"),
    ("data.parquet", lambda _: b"PAR1....PAR1", "Parquet file cannot be read", "again"),
    ("data.parquet", lambda _: b'{"a": 1}', "Parquet file cannot be read", "again"),
    ("data", lambda _: b"just words", "what kind of data file", ".jsonl"),
    ("data.csv", lambda _: b"\n\n", "header", "names the columns"),
    ("data.jsonl", lambda _: bytes(1000), "nothing but NULs", "again"),
]


@pytest.mark.parametrize(
    ("name", "content", "said", "remedy"), FOREIGN, ids=[f"{case[2]} {case[0]}" for case in FOREIGN]
)
def test_a_file_of_another_kind_is_refused_by_its_name_with_a_remedy(
    tmp_path: Path, name: str, content: Callable[[Path], bytes], said: str, remedy: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content(path))
    with pytest.raises(DataError, match=said) as caught:
        list(read_rows(path))
    assert name in caught.value.detail
    assert any(remedy in hint for hint in caught.value.hints)


def test_a_missing_file_a_folder_and_a_pipe_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "none", "no such"), (tmp_path, "folder"), (tmp_path / "pipe", "not a plain file")):
        with pytest.raises(DataError, match=said):
            find_reader(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(DataError, match="may not be read"):
        find_reader(path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_path_that_cannot_be_is_a_data_error(name: str) -> None:
    with pytest.raises(DataError):
        find_reader(Path(name))


def test_a_name_cannot_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b]52;c;aGk=\x07.jsonl"
    path.write_bytes(b"{")
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert "\x1b" not in caught.value.detail


def test_a_bookmark_into_a_file_that_has_shrunk_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"{}\n" * 10)
    last = records(path)[-1]
    path.write_bytes(b"{}\n")
    with pytest.raises(DataError, match="changed"):
        find_reader(path).at(path, last.offset, last.line)


def test_parquet_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(DataError, match="several columns are called 'text'"):
        list(read_rows(tmp_path / "data.parquet"))


def test_a_text_that_is_not_utf8_in_parquet_costs_its_own_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"gr\xfcn", b"good"]).cast(pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": texts}), tmp_path / "data.parquet")
    found = records(tmp_path / "data.parquet")
    assert [record.unusable and record.unusable.fault for record in found] == [None, faults.NOT_UTF8, None]


def test_times_that_python_cannot_hold_do_not_hinder_the_texts_beside_them(tmp_path: Path) -> None:
    times = pa.array([0, 1, 2**62], pa.timestamp("ns"))
    parquet.write_table(pa.table({"text": ["a", "b", "c"], "at": times}), tmp_path / "data.parquet")
    assert [record.value for record in records(tmp_path / "data.parquet")] == [{"text": text} for text in "abc"]


def test_texts_that_an_old_writer_marked_as_bytes_are_texts(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["Łódź".encode()], "image": [b"\xff\xd8"]}), tmp_path / "data.parquet")
    assert [row.text for row in read_rows(tmp_path / "data.parquet")] == ["Łódź"]


# ── bounded memory ──


def test_a_line_beyond_the_cap_is_told_and_not_held(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "a"}\n')
        for _ in range(5 * MAX_LINE_BYTES // MIB):
            file.write(b"x" * MIB)
        file.write(b'\n{"text": "b"}\n')
    assert peak(path) < 2 * MAX_LINE_BYTES
    found = records(path)
    assert [record.unusable and record.unusable.fault for record in found] == [None, faults.TOO_LONG, None]
    assert [record.line for record in found] == [1, 2, 3]


def test_a_line_of_a_million_lists_is_told_and_not_built(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl"
    path.write_bytes(b'{"a": [' + b"[]," * 4_000_000 + b"1]}\n")
    assert peak(path) < 3 * MAX_LINE_BYTES
    assert [record.unusable and record.unusable.fault for record in records(path)] == [faults.TOO_MANY]


def test_as_many_values_as_a_row_may_hold_are_no_fault() -> None:
    assert not too_many(b'{"a":[' + b"1," * (MAX_VALUES - 2) + b"1]}")
    assert too_many(b'{"a":[' + b"1," * (MAX_VALUES - 1) + b"1]}")


def test_a_csv_row_of_a_million_cells_is_told_and_not_built(tmp_path: Path) -> None:
    path = tmp_path / "bomb.csv"
    path.write_bytes(b"prompt,completion\n" + b"aa," * 1_100_000 + b"\na,b\n")
    assert peak(path) < MAX_LINE_BYTES
    assert [record.unusable and record.unusable.fault for record in records(path)] == [faults.TOO_MANY, None]


def test_the_rows_of_a_list_on_one_line_are_told_by_number(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"text": "a"}, {"text": "b"}, {"text": ""}]))
    with pytest.raises(DataError, match=r"data\.json:row 3: row has an empty text"):
        list(read_rows(path))
    path.write_text(json.dumps([{"text": "a"}, {"text": "b"}, {"text": ""}], indent=1))
    with pytest.raises(DataError, match=r"data\.json:8: row has an empty text"):
        list(read_rows(path))


def test_a_list_on_one_line_that_breaks_off_says_where(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"text": "a"}, {"text": "b" "c"}]')
    (_, broken) = records(path)
    assert broken.line == 2
    assert broken.unusable is not None
    assert "line 1, column 30" in broken.unusable.detail


def test_a_list_on_one_line_is_read_as_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    row = json.dumps({"prompt": "x" * 100, "completion": "y" * 100})
    with path.open("w") as file:
        file.write("[" + ", ".join([row] * 100_000) + "]")
    assert path.stat().st_size > 20 * MIB
    assert peak(path) < 8 * MIB
    assert sum(len(block) for block in find_reader(path).blocks(path, ignore)) == 100_000


def test_an_element_beyond_the_cap_ends_the_list_and_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    with path.open("wb") as file:
        file.write(b'[{"text": "a"},\n{"text": "')
        for _ in range(3 * MAX_LINE_BYTES // MIB):
            file.write(b"x" * MIB)
        file.write(b'"}]')
    assert peak(path) < 6 * MAX_LINE_BYTES
    found = list(find_reader(path).blocks(path, ignore))[-1]
    assert [record.unusable and record.unusable.fault for record in found] == [None, faults.TOO_LONG]
    assert found[1].line == 2


def test_an_open_quote_cannot_swallow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'prompt,completion\n"open,x\n' + (b"a," + b"b" * 1000 + b"\n") * 20_000)
    found = {
        record.unusable.fault: record.line
        for block in find_reader(path).blocks(path, ignore)
        for record in block
        if record.unusable
    }
    assert found == {faults.OPEN_QUOTE: 2}


def test_one_huge_row_group_is_read_in_small_batches(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number} " + "x" * 200, "completion": "y" * 200} for number in range(50_000)]
    path = write_table(tmp_path / "data.parquet", rows, row_group_size=10**9, compression="none", use_dictionary=False)
    assert parquet.ParquetFile(path).num_row_groups == 1
    before = pa.total_allocated_bytes()
    most = 0
    for _ in find_reader(path).blocks(path, ignore):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 12 * MIB < path.stat().st_size


def test_a_long_text_that_repeats_is_not_held_once_for_each_row(tmp_path: Path) -> None:
    path = write_table(tmp_path / "data.parquet", [{"text": "x" * MIB}] * 500)
    assert path.stat().st_size < MIB
    assert max(len(block) for block in find_reader(path).blocks(path, ignore)) <= 4


def test_long_texts_that_repeat_are_not_probed_by_the_dozen(tmp_path: Path) -> None:
    path = write_table(tmp_path / "data.parquet", [{"text": "x" * (8 * MIB)}] * 12)
    before, counting = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(counting)
    try:
        next(iter(find_reader(path).blocks(path, ignore)))
    finally:
        pa.set_memory_pool(before)
    assert counting.max_memory() < 48 * MIB
