"""Data files: every format becomes messages, every fault is told with its place, whatever bytes there are."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import DatasetSpec
from engine.datasets import FORMATS
from engine.datasets.lines import MAX_LINE_BYTES
from engine.datasets.rows import read_rows
from engine.datasets.scan import DatasetReport, Problem, scan
from engine.datasets.split import held_out_count, split
from engine.errors import DataError, UsageError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(*lines: str | bytes | dict[str, Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(_bytes(line) + b"\n" for line in lines))
        return path

    return to_file


def _bytes(line: str | bytes | dict[str, Any] | list[Any]) -> bytes:
    if isinstance(line, bytes):
        return line
    return (line if isinstance(line, str) else json.dumps(line)).encode()


def row(number: int, answer: str = "ok") -> dict[str, Any]:
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def good(count: int = 60) -> list[dict[str, Any]]:
    return [row(number) for number in range(count)]


def look(path: Path, **changes: Any) -> DatasetReport:
    return scan(DatasetSpec(path=str(path), **changes))


def errors(report: DatasetReport) -> list[Problem]:
    return [problem for problem in report.problems if problem.level == "error"]


# ── formats ──

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


@pytest.mark.parametrize(
    ("format", "line", "messages"),
    [
        ("messages", {"messages": CHAT}, CHAT),
        ("messages", {"conversations": CHAT, "id": 7}, CHAT),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}, CHAT),
        ("sharegpt",
         {"conversations": [{"from": "user", "value": "Hi"}, {"from": "model", "value": "Hello!"}], "system": "Kind"},
         [{"role": "system", "content": "Kind"}, *CHAT]),
        ("instruction", {"instruction": "Hi", "input": "", "output": "Hello!"}, CHAT),
        ("instruction", {"instruction": "Translate", "input": "Hi", "output": "Salut"},
         [{"role": "user", "content": "Translate\n\nHi"}, {"role": "assistant", "content": "Salut"}]),
        ("prompt_completion", {"prompt": "Hi", "completion": "Hello!"}, CHAT),
        ("prompt_completion", {"question": "Hi", "answer": "Hello!"}, CHAT),
    ],
)  # fmt: skip
def test_a_row_of_each_format_is_detected_and_becomes_messages(
    write: Write, format: str, line: dict[str, Any], messages: list[dict[str, str]]
) -> None:
    path = write(line)
    assert look(path).format == format
    assert [read.messages for read in read_rows(path)] == [messages]


@pytest.mark.parametrize("name", FORMATS)
def test_each_formats_example_is_of_that_format(write: Write, name: str) -> None:
    assert look(write(FORMATS[name].example)).format == name


def test_a_named_format_is_taken_over_the_detected_one(write: Write) -> None:
    both = {"prompt": "a", "completion": "b", "instruction": "c", "output": "d"}
    path = write(both)
    assert next(read_rows(path, "prompt_completion")).messages[0]["content"] == "a"
    assert next(read_rows(path, "instruction")).messages[0]["content"] == "c"


def test_the_format_of_most_of_the_first_rows_wins(write: Write) -> None:
    odd = {"prompt": "a", "completion": "b"}
    report = look(write(odd, *good(5)))
    assert report.format == "messages"
    assert errors(report)[0].places == ("data.jsonl:1",)


def test_an_unknown_format_is_a_usage_error_with_a_near_name(write: Write) -> None:
    with pytest.raises(UsageError) as caught:
        look(write(*good()), format="mesages")
    assert "messages" in caught.value.hints[0]


def test_rows_that_no_format_fits_are_refused_with_their_keys(write: Write) -> None:
    report = look(write({"text": "a"}, {"text": "b"}))
    assert report.format == "unknown"
    assert errors(report)[0].title == "2 rows lack the keys of their format"
    assert "'text'" in errors(report)[0].effect


# ── faults ──

FAULTS: list[tuple[str, Any, str]] = [
    ("torn", '{"messages": [{"role": "user", "con', "is not JSON"),
    ("latin-1", '{"prompt": "grün"}'.encode("latin-1"), "is not UTF-8"),
    ("nul", b'{"prompt": "a\x00b"}', "contains NUL"),
    ("utf-16 inside", '{"a": 1}'.encode("utf-16-le"), "contains NUL"),
    ("escaped nul", row(0, "a\0b"), "contains NUL"),
    ("deep", b"[" * 100_000, "nested too deeply"),
    ("huge number", b'{"a": ' + b"9" * 10_000 + b"}", "is not JSON"),
    ("a list", "[1]", "is not a JSON object"),
    ("a number", "7", "is not a JSON object"),
    ("no keys", {"text": "a"}, "lacks the keys"),
    ("no role", {"messages": [{"content": "a"}]}, "lacks the keys"),
    ("content is a number", {"messages": [{"role": "user", "content": 3}]}, "something else than text"),
    ("content is null", {"messages": [{"role": "assistant", "content": None}]}, "something else than text"),
    ("turns are a text", {"messages": "Hi"}, "something else than text"),
    ("a turn is a text", {"messages": ["Hi"]}, "something else than text"),
    ("no turns", {"messages": []}, "no assistant turn"),
    ("only the user", {"messages": [{"role": "user", "content": "a"}]}, "no assistant turn"),
    ("ends on the user", {"messages": [*CHAT, {"role": "user", "content": "a"}]}, "does not end with an answer"),
    ("empty answer", row(0, " \n"), "has an empty answer"),
    ("unknown role", {"messages": [{"role": "wizard", "content": "a"}, *CHAT]}, "has an unknown role"),
    ("late system", {"messages": [*CHAT, {"role": "system", "content": "a"}, *CHAT]}, "system message after"),
    ("lone surrogate", r'{"messages": [{"role": "assistant", "content": "\ud83d"}]}', "half of a character"),
    ("another format", {"prompt": "a", "completion": "b"}, "lacks the keys"),
]


@pytest.mark.parametrize(("line", "said"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_is_an_error_with_its_place(write: Write, line: Any, said: str) -> None:
    report = look(write(*good(), line, *good(1)))
    (problem,) = errors(report)
    assert report.refused
    assert said in problem.title
    assert problem.places == ("data.jsonl:61",)
    assert problem.remedy


@pytest.mark.parametrize(("line", "said"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_reading_the_rows_stops_at_a_fault_with_its_place(write: Write, line: Any, said: str) -> None:
    path = write(*good(), line)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert caught.value.detail.startswith("data.jsonl:61: ")
    assert said in caught.value.detail


def test_faults_of_one_kind_are_counted_and_the_first_places_named(write: Write) -> None:
    report = look(write(*good(), *["{"] * 1234))
    (problem,) = errors(report)
    assert problem.title == "1,234 rows are not JSON"
    assert problem.count == 1234
    assert problem.places == tuple(f"data.jsonl:{line}" for line in range(61, 66))


def test_what_a_row_says_cannot_reach_the_terminal(write: Write) -> None:
    report = look(write(*good(), {"messages": [{"role": "\x1b]52;c;aGk=\x07", "content": "a"}]}, row(99, "\x1b[2J")))
    assert "\x1b" not in json.dumps([problem.model_dump() for problem in report.problems])
    shown = look(write(row(1, "\x1b[2J\u202eabc"), *good())).sample[0][1]["content"]
    assert shown == "\ufffd[2J\ufffdabc"


def test_a_line_beyond_the_cap_is_told_and_not_held(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        file.write(b"".join(_bytes(line) + b"\n" for line in good()))
        for _ in range(5 * MAX_LINE_BYTES // 2**20):
            file.write(b"x" * 2**20)
        file.write(b"\n" + _bytes(row(1)) + b"\n")
    tracemalloc.start()
    report = look(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert errors(report)[0].title == "1 row is larger than 16 MiB"
    assert errors(report)[0].places == ("big.jsonl:61",)
    assert report.turns == 2 * 61  # the row behind it is read
    assert peak < 3 * MAX_LINE_BYTES


# ── what is no data file at all ──


@pytest.mark.parametrize("read", [look, lambda path: list(read_rows(path))], ids=["scan", "read_rows"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (gzip.compress(b"{}"), "gzip"),
        (b"PAR1....", "Parquet"),
        (b"PK\x03\x04....", "ZIP"),
        (b' \n[\n {"prompt": 1}\n]', "one JSON list"),
    ],
)
def test_a_file_of_another_kind_is_refused_at_once(
    tmp_path: Path, content: bytes, said: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read(path)
    assert caught.value.hints


def test_a_missing_file_a_folder_and_a_pipe_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "none", "no such"), (tmp_path, "folder"), (tmp_path / "pipe", "not a plain file")):
        with pytest.raises(DataError, match=said):
            look(path)


def test_a_missing_held_out_file_is_refused_at_once(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such"):
        look(write(*good()), eval_path=str(tmp_path / "none"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused_at_once(write: Write) -> None:
    path = write(*good())
    path.chmod(0)
    with pytest.raises(DataError, match="may not be read"):
        look(path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_path_that_cannot_be_is_a_data_error(name: str) -> None:
    with pytest.raises(DataError):
        look(Path(name))


# ── what is fine ──


def test_a_bom_blank_lines_windows_ends_and_a_missing_last_end_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    lines = [_bytes(line) for line in good(60)]
    path.write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\r\n  \n" + b"\r\n".join(lines[1:]))
    report = look(path, eval_fraction=0)
    assert not report.refused
    assert report.rows == 60
    assert [read.line for read in read_rows(path)][:2] == [1, 4]


def test_the_digest_is_that_of_the_bytes(write: Write) -> None:
    path = write(*good(), "{")
    data = path.read_bytes()
    report = look(path, max_rows=3)
    assert report.sha256 == hashlib.sha256(data).hexdigest()
    assert report.size_bytes == len(data)


def test_progress_ends_with_all_bytes(write: Write) -> None:
    data, held_out = write(*good()), write(*good(5), name="held.jsonl")
    told: list[tuple[int, int]] = []
    scan(DatasetSpec(path=str(data), eval_path=str(held_out)), lambda done, total: told.append((done, total)))
    total = data.stat().st_size + held_out.stat().st_size
    assert told[-1] == (total, total)


def test_turns_and_the_longest_row_are_measured(write: Write) -> None:
    report = look(write(*good(59), row(100, "x" * 1000)))
    assert report.turns == 120
    assert report.longest_characters == len("question 100") + 1000


def test_tokens_are_about_a_quarter_of_the_bytes(write: Write) -> None:
    report = look(write(*[row(number, "x" * 4000) for number in range(60)]), eval_fraction=0)
    assert report.approximate_tokens == pytest.approx(60 * 1000, rel=0.02)


def test_the_first_three_rows_are_shown(write: Write) -> None:
    report = look(write(*good()))
    assert [turns[0]["content"] for turns in report.sample] == ["question 0", "question 1", "question 2"]


# ── counts, duplicates, held-out rows ──


def test_fewer_than_two_rows_are_refused_and_few_are_warned_of(write: Write) -> None:
    assert [problem.title for problem in look(write(*good(1))).problems] == ["Only 1 row to learn from"]
    few = look(write(*good(10)), eval_fraction=0.2)
    assert not few.refused
    assert few.problems[0].title == "Only 8 rows to learn from"
    assert look(write(*good(60))).problems == ()


def test_duplicates_are_counted_whatever_format_they_are_written_in(write: Write) -> None:
    report = look(write(*good(), {"conversations": row(3)["messages"]}, row(3)))
    (problem,) = report.problems
    assert (problem.level, problem.title) == ("warning", "2 exact duplicates")
    assert problem.places == ("data.jsonl:61", "data.jsonl:62")


def test_the_report_counts_what_the_split_makes(write: Write) -> None:
    spec = DatasetSpec(path=str(write(*good(60), *good(20), row(1))), eval_fraction=0.9)
    report = scan(spec)
    learned, held_out = split(spec, seed=1)
    assert (report.rows, report.eval_rows) == (len(learned), len(held_out)) == (41, 40)


def test_the_report_counts_what_the_split_makes_of_two_files(write: Write) -> None:
    spec = DatasetSpec(path=str(write(*good(60))), eval_path=str(write(*good(4), row(99), name="held.jsonl")))
    report = scan(spec)
    learned, held_out = split(spec, seed=1)
    assert (report.rows, report.eval_rows) == (len(learned), len(held_out)) == (56, 5)
    assert any(problem.title == "4 rows are also held out" for problem in report.problems)


def test_the_report_knows_both_files_by_their_bytes(write: Write) -> None:
    learned, held_out = write(*good(60)), write(row(99), name="held.jsonl")
    report = scan(DatasetSpec(path=str(learned), eval_path=str(held_out)))
    assert report.sha256 == hashlib.sha256(learned.read_bytes()).hexdigest()
    assert report.eval_sha256 == hashlib.sha256(held_out.read_bytes()).hexdigest()
    assert scan(DatasetSpec(path=str(learned))).eval_sha256 == ""


def test_a_fault_in_the_held_out_file_refuses_the_data(write: Write) -> None:
    spec = DatasetSpec(path=str(write(*good())), eval_path=str(write(row(99), "{", name="held.jsonl")))
    assert errors(scan(spec))[0].places == ("held.jsonl:2",)


@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=60),
    st.floats(0, 0.99),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_identical_rows_never_stand_on_both_sides(numbers: list[int], fraction: float, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        path.write_text("".join(json.dumps(row(number)) + "\n" for number in numbers), encoding="utf-8")
        spec = DatasetSpec(path=str(path), eval_fraction=fraction)
        learned, held_out = split(spec, seed)
        report = scan(spec)
    assert len(learned) + len(held_out) == len(numbers)
    assert not {str(read.messages) for read in learned} & {str(read.messages) for read in held_out}
    assert (report.rows, report.eval_rows) == (len(learned), len(held_out))


def test_the_split_follows_from_the_seed(write: Write) -> None:
    spec = DatasetSpec(path=str(write(*good())), eval_fraction=0.3)
    assert split(spec, 7) == split(spec, 7)
    assert split(spec, 7)[1] != split(spec, 8)[1]


def test_only_the_first_rows_are_used_when_asked_for(write: Write) -> None:
    spec = DatasetSpec(path=str(write(*good(60), "{")), max_rows=10, eval_fraction=0.2)
    learned, held_out = split(spec, 1)
    report = scan(spec)
    assert sorted(read.line for read in learned + held_out) == list(range(1, 11))
    assert (report.rows, report.eval_rows, report.refused) == (8, 2, False)


@pytest.mark.parametrize(
    ("rows", "fraction", "count"), [(100, 0.04, 4), (10, 0.04, 1), (100_000, 0.04, 500), (100, 0.0, 0), (2, 0.9, 1)]
)
def test_how_many_rows_are_held_out(rows: int, fraction: float, count: int) -> None:
    assert held_out_count(rows, rows, fraction) == count


# ── any bytes ──

KEYS = [
    "messages",
    "conversations",
    "role",
    "content",
    "from",
    "value",
    "instruction",
    "output",
    "prompt",
    "completion",
]
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
lines_like = st.lists(json_like.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40), max_size=8)


@given(st.binary(max_size=300) | lines_like.map(b"\n".join))
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_a_report_or_a_data_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        path.write_bytes(content)
        try:
            report = look(path)
        except DataError:
            return
        report.model_dump_json()
        if not report.refused:
            assert report.rows + report.eval_rows == len(list(read_rows(path)))
