"""The cleaned copy: what is left out, what is repaired, that the original stays, and that nothing half-done is left."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datafiles import CHAT, as_bytes, good, kinds, look, row, text_row, write
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import DatasetSpec
from engine.datasets.fix import Fixed, fix
from engine.datasets.identity import fingerprint
from engine.datasets.lines import MAX_LINE_BYTES
from engine.datasets.mend import mended
from engine.datasets.rows import read_rows
from engine.datasets.utf8 import is_clean, windows_1252
from engine.errors import DataError, ExitCode, FinetuiError, FitError, UsageError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "clean.jsonl"


def cleaned(path: Path, target: Path, **changes: Any) -> Fixed:
    return fix(DatasetSpec(path=str(path), **changes), target)


def rows_of(path: Path) -> list[Any]:
    return [each.messages or each.text for each in read_rows(path)]


# ── what is left out ──

DROPPED: list[tuple[str, Any, str]] = [
    ("torn", '{"messages": [{"role": "us', "row is not JSON"),
    ("empty answer", row(99, "  "), "row has an empty answer"),
    ("no answer", {"messages": CHAT[:1]}, "row has no assistant turn"),
    ("no object", "[1]", "row is not a JSON object"),
    ("another format", {"text": "Hi"}, "row lacks the keys of its format"),
    ("a repetition", row(3), "exact duplicate"),
    ("a repetition in another form", {"conversations": row(3)["messages"]}, "exact duplicate"),
    ("nothing but a byte order mark", row(99, "\ufeff"), "row has an empty answer"),
    ("an unknown encoding", '{"prompt": "Привет, как дела"}'.encode("koi8-r"), "row is not UTF-8"),
]


@pytest.mark.parametrize(("line", "reason"), [each[1:] for each in DROPPED], ids=[each[0] for each in DROPPED])
def test_rows_are_left_out_with_reason_and_place(data: Path, target: Path, line: Any, reason: str) -> None:
    fixed = cleaned(write(data, *good(), line, row(200)), target)
    assert fixed.dropped == {reason: 1}
    assert fixed.places == {reason: ("data.jsonl:61",)}
    assert fixed.rows == 61
    assert rows_of(target) == [each["messages"] for each in [*good(), row(200)]]


def test_reasons_are_counted_and_the_first_places_named(data: Path, target: Path) -> None:
    fixed = cleaned(write(data, *good(), *["{"] * 9, row(1), row(1)), target)
    assert fixed.dropped == {"rows are not JSON": 9, "exact duplicates": 2}
    assert fixed.places["rows are not JSON"] == tuple(f"data.jsonl:{line}" for line in range(61, 66))
    assert str(fixed) == f"{target}: 60 rows written, 11 left out, 0 repaired"


def test_rows_that_their_tool_rejected_are_left_out(data: Path, target: Path) -> None:
    task = {"text": "Hi", "label": "A", "answer": "accept"}
    fixed = cleaned(write(data, task, task | {"answer": "reject"}), target)
    assert fixed.dropped == {"row is marked as not to be used": 1}


def test_a_row_that_no_line_can_hold_is_left_out(tmp_path: Path, target: Path) -> None:
    cell = "\1" * (MAX_LINE_BYTES // 5)  # each is one byte in the table, and six in JSON
    table = tmp_path / "data.csv"
    table.write_text(f'question,answer\nHi,Hello there\nHi,"{cell}"\n', encoding="utf-8")
    fixed = cleaned(table, target)
    assert (fixed.rows, fixed.dropped) == (1, {"row is larger than 16 MiB": 1})


# ── what is repaired ──

WINDOWS = "read as Windows-1252, not UTF-8"
STRAY = "NUL, byte order mark or half of a character taken out"
DECODED = "decoded anew (fÃ¼r → für)"


@pytest.mark.parametrize(
    ("line", "how", "answer"),
    [
        (json.dumps(row(99, "Grüße – schön"), ensure_ascii=False).encode("cp1252"), WINDOWS, "Grüße – schön"),
        (row(99, "Grüße aus Köln".encode().decode("cp1252")), DECODED, "Grüße aus Köln"),
        (row(99, "\ufeffHello\0 there"), STRAY, "Hello there"),
        (as_bytes(row(99, "Hello there")).replace(b"there", b"th\0ere"), "NUL characters taken out", "Hello there"),
        (r'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a \ud83d b"}]}',
         STRAY, "a  b"),
    ],
)  # fmt: skip
def test_encodings_are_repaired_and_told(data: Path, target: Path, line: Any, how: str, answer: str) -> None:
    fixed = cleaned(write(data, *good(), line, row(200)), target)
    assert (fixed.rows, fixed.dropped, fixed.repaired) == (62, {}, {how: 1})
    assert fixed.places == {how: ("data.jsonl:61",)}
    assert rows_of(target)[60][1]["content"] == answer


def test_thoughts_and_tool_calls_are_repaired_too(data: Path, target: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"city": "KÃ¶ln", "n": 10**30}}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "FÃ¼r KÃ¶ln"}
    cleaned(write(data, {"messages": [CHAT[0], answer, {"role": "tool", "content": "12"}, CHAT[1]]}), target)
    (messages,) = rows_of(target)
    assert messages[1]["reasoning_content"] == "Für Köln"
    assert messages[1]["tool_calls"][0]["function"]["arguments"]["city"] == "Köln"


def test_a_table_in_windows_1252_is_read_as_a_whole(tmp_path: Path, target: Path) -> None:
    table = tmp_path / "data.csv"
    table.write_bytes("question,answer\nWo?,In Köln\nWas?,Käse und Brötchen\n".encode("cp1252"))
    fixed = cleaned(table, target)
    assert [each[1]["content"] for each in rows_of(target)] == ["In Köln", "Käse und Brötchen"]
    assert fixed.repaired == {WINDOWS: 2}
    assert fixed.places == {WINDOWS: ("data.csv:2", "data.csv:3")}


@pytest.mark.parametrize("encoding", ["koi8-r", "cp1251", "gbk", "big5", "euc-kr", "cp1253", "iso8859-2"])
def test_another_encoding_is_not_taken_for_windows_1252(encoding: str) -> None:
    texts = {"koi8-r": "Привет, как дела?", "cp1251": "Привет, как дела?", "gbk": "请把发票发给我",
             "big5": "請把發票發給我", "euc-kr": "안녕하세요", "cp1253": "Καλημέρα κόσμε",
             "iso8859-2": "Zażółć gęślą jaźń"}  # fmt: skip
    assert windows_1252(texts[encoding].encode(encoding)) is None


def test_what_is_utf8_is_not_read_as_anything_else() -> None:
    assert windows_1252("Grüße aus Köln, 请, 😀".encode()) is None


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.integers(0, 3))
def test_a_character_across_two_chunks_is_no_fault(text: str, shift: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(b"x" * (2**20 - shift) + text.encode() + b"x")
        assert is_clean(path)


@given(st.text(max_size=60) | st.text("Ã¼\ufeff\0ÂâΓ├€ ", max_size=20))
def test_what_is_mended_needs_no_second_mending(text: str) -> None:
    assert mended(mended(text)) == mended(text)


# ── containers ──


@pytest.mark.parametrize("suffix", [".json", ".csv", ".tsv", ".parquet", ".jsonl"])
def test_every_container_becomes_json_lines_of_the_same_rows(tmp_path: Path, target: Path, suffix: str) -> None:
    pairs = [{"question": f"Where, or \t{n}?", "answer": f'"Here"\nand there {n}'} for n in range(2000)]
    path = tmp_path / f"data{suffix}"
    match suffix:
        case ".json":
            path.write_text(json.dumps(pairs, indent=1), encoding="utf-8")
        case ".jsonl":
            write(path, *pairs)
        case ".parquet":
            import pyarrow as pa
            from pyarrow import parquet

            parquet.write_table(pa.Table.from_pylist(pairs), path)
        case _:
            import csv

            with path.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, pairs[0], delimiter="\t" if suffix == ".tsv" else ",")
                table.writeheader()
                table.writerows(pairs)
    fixed = cleaned(path, target)
    assert (fixed.rows, fixed.dropped, fixed.repaired) == (2000, {}, {})
    assert [fingerprint(each) for each in read_rows(target)] == [fingerprint(each) for each in read_rows(path)]


def test_raw_text_stays_raw_text(data: Path, target: Path) -> None:
    cleaned(write(data, *map(text_row, range(60)), text_row(1)), target)
    assert [json.loads(line) for line in target.read_text().splitlines()] == [text_row(n) for n in range(60)]


def test_columns_become_messages(data: Path, target: Path) -> None:
    cleaned(write(data, {"q": "Hi", "a": "Hello"}), target, columns="user=q,assistant=a")
    assert rows_of(target) == [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]


# ── the copy itself ──


def test_the_original_is_not_touched(data: Path, target: Path) -> None:
    write(data, *good(), "{", row(1))
    before, status = data.read_bytes(), data.stat()
    cleaned(data, target)
    after = data.stat()
    assert data.read_bytes() == before
    assert (status.st_mtime_ns, status.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert sorted(path.name for path in data.parent.iterdir() if path.is_file()) == ["data.jsonl"]


@pytest.mark.parametrize("how", ["itself", "hard link", "symbolic link", "another file", "dangling link"])
def test_no_file_is_overwritten(data: Path, target: Path, how: str) -> None:
    write(data, *good())
    match how:
        case "itself":
            target = data
        case "hard link":
            target.hardlink_to(data)
        case "symbolic link":
            target.symlink_to(data)
        case "another file":
            target.write_text("precious")
        case "dangling link":
            target.symlink_to("nowhere")
    before = [path.read_bytes() for path in (data, target) if path.exists()]
    with pytest.raises(UsageError) as caught:
        cleaned(data, target)
    assert caught.value.hints
    assert [path.read_bytes() for path in (data, target) if path.exists()] == before


@pytest.mark.parametrize("name", ["clean.csv", "clean", "clean.parquet", "none/clean.jsonl", "a\0.jsonl", "x" * 500])
def test_a_target_that_cannot_be_meant_is_a_usage_error(data: Path, target: Path, name: str) -> None:
    with pytest.raises(UsageError):
        cleaned(write(data, *good()), target.with_name(name) if "/" not in name else target.parent / name)
    assert list(target.parent.iterdir()) == []


def test_nothing_is_written_where_no_row_can_be_used(data: Path, target: Path) -> None:
    with pytest.raises(DataError, match="No row can be used") as caught:
        cleaned(write(data, "[1]", "[2]"), target)
    assert caught.value.detail == "data.jsonl:1: row is not a JSON object"
    assert list(target.parent.iterdir()) == []


def test_progress_ends_with_all_bytes(data: Path, target: Path) -> None:
    told: list[tuple[int, int]] = []
    write(data, *good(5000))
    fix(DatasetSpec(path=str(data)), target, lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (data.stat().st_size,) * 2


# ── what goes wrong on the way ──


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB, where the machine lets us have one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("wrong", ["rows", "bytes"])
def test_a_full_disk_is_told_and_leaves_nothing(data: Path, small_disk: Path, wrong: str) -> None:
    first = "Grün ist es".encode("latin-1") if wrong == "bytes" else b"fine"
    write(data, as_bytes(row(0)).replace(b"This", first), *[row(n, "long " * 100) for n in range(1, 5000)])
    with pytest.raises(FitError) as caught:
        cleaned(data, small_disk / "clean.jsonl")
    assert caught.value.code == ExitCode.FIT
    assert "disk is full" in caught.value.title
    assert list(small_disk.iterdir()) == []


def test_a_file_that_may_not_grow_is_told_and_leaves_nothing(data: Path, target: Path) -> None:
    write(data, *[row(n, "long " * 100) for n in range(5000)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(FinetuiError) as caught:
            cleaned(data, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.strerror(errno.EFBIG) in caught.value.detail
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError("gone")])
def test_an_interruption_leaves_nothing(data: Path, target: Path, error: Any) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise error

    with pytest.raises((KeyboardInterrupt, DataError)):
        fix(DatasetSpec(path=str(write(data, *good(3000)))), target, interrupt)
    assert list(target.parent.iterdir()) == []


def test_a_file_that_changes_meanwhile_is_refused(data: Path, target: Path) -> None:
    def append(_done: int, _total: int) -> None:
        with data.open("ab") as file:
            file.write(b"\n")

    with pytest.raises(DataError, match="changed"):
        fix(DatasetSpec(path=str(write(data, *good(3000)))), target, append)
    assert list(target.parent.iterdir()) == []


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(data: Path, target: Path) -> None:
    with pytest.raises(UsageError):
        fix(DatasetSpec(path=str(write(data, *good()))), target, lambda *_: target.write_text("precious") and None)
    assert target.read_text() == "precious"
    assert list(target.parent.iterdir()) == [target]


# ── what is written has none of it any more ──

GONE = {"exact-duplicates", "mojibake", "skipped"}

texts = st.text("aé ü\0\ufeffÃ¼Âß€“â", max_size=6) | st.sampled_from(["", " ", "für", "fÃ¼r", "Gr\ufffdn", "Yes it is"])
turns = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content},
              st.sampled_from(["user", "assistant", "system"]), texts), max_size=4,
)  # fmt: skip
lines = st.lists(
    st.builds(lambda each: json.dumps({"messages": each}).encode(), turns)
    | st.builds(lambda q, a: json.dumps(row(0, a, q), ensure_ascii=False).encode("cp1252", "replace"), texts, texts)
    | st.builds(lambda a: json.dumps({"text": a}).encode(), texts)
    | st.binary(max_size=20),
    min_size=1,
    max_size=12,
)


@given(lines, st.sampled_from([".jsonl", ".txt"]))
@settings(max_examples=300, deadline=None)
def test_what_is_written_scans_without_what_was_fixed(each: list[bytes], suffix: str) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        path, target = folder / f"data{suffix}", folder / "clean.jsonl"
        path.write_bytes(b"\n".join(each))
        try:
            fixed = cleaned(path, target)
        except DataError:
            assert not target.exists()
            return
        report = look(target)
        assert report.rows + report.eval_rows == fixed.rows
        assert set(kinds(report)) & GONE == set()
        assert all(problem.kind == "few-rows" for problem in report.problems if problem.level == "error")
        again = cleaned(target, folder / "again.jsonl")
        assert (again.rows, again.dropped, again.repaired) == (fixed.rows, {}, {})
        assert (folder / "again.jsonl").read_bytes() == target.read_bytes()
    finally:
        shutil.rmtree(folder)
