"""The scan: every fault is told with its place, whatever bytes there are; figures, digests, bounds; the row index."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from datafiles import CHAT, as_bytes, errors, found, good, kinds, look, row, text_row, write
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import DatasetSpec
from engine.datasets.lines import MAX_LINE_BYTES
from engine.datasets.mix import draw
from engine.datasets.rowindex import RowIndex
from engine.datasets.rows import read_rows
from engine.datasets.scan import SAMPLE_CHARACTERS, Scanner, scan
from engine.datasets.split import side_key, split
from engine.errors import DataError, UsageError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


# ── rows that cannot be used ──


def test_the_format_of_most_of_the_first_rows_wins(data: Path) -> None:
    report = look(write(data, {"prompt": "a", "completion": "b"}, *good(5)))
    assert report.format == "messages"
    assert errors(report)[0].places == ("data.jsonl:1",)


def test_an_unknown_format_is_a_usage_error_with_a_near_name(data: Path) -> None:
    with pytest.raises(UsageError) as caught:
        look(write(data, *good()), format="mesages")
    assert "messages" in caught.value.hints[0]


def test_rows_that_no_format_fits_are_refused_with_their_keys(data: Path) -> None:
    report = look(write(data, {"a": "b"}, {"a": "c"}))
    assert report.format == "unknown"
    assert found(report, "no-keys").title == "2 rows lack the keys of their format"
    assert "'a'" in found(report, "no-keys").effect


FAULTS: list[tuple[str, Any, str, str]] = [
    ("torn", '{"messages": [{"role": "user", "con', "not-json", "is not JSON"),
    ("latin-1", '{"prompt": "grün"}'.encode("latin-1"), "not-utf8", "is not UTF-8"),
    ("nul", b'{"prompt": "a\x00b"}', "nul", "contains NUL"),
    ("utf-16 inside", '{"a": 1}'.encode("utf-16-le"), "nul", "contains NUL"),
    ("escaped nul", row(0, "a\0b"), "nul", "contains NUL"),
    ("deep", b"[" * 100_000, "too-deep", "nested too deeply"),
    ("huge number", b'{"a": ' + b"9" * 10_000 + b"}", "not-json", "is not JSON"),
    ("a list", "[1]", "not-object", "is not a JSON object"),
    ("a number", "7", "not-object", "is not a JSON object"),
    ("no keys", {"text": "a"}, "no-keys", "lacks the keys"),
    ("no role", {"messages": [{"content": "a"}]}, "no-keys", "lacks the keys"),
    ("a number for a text", {"messages": [{"role": "user", "content": 3}]}, "wrong-type", "another type"),
    ("turns are a text", {"messages": "Hi"}, "wrong-type", "another type"),
    ("no turns", {"messages": []}, "no-answer", "no assistant turn"),
    ("only the user", {"messages": [{"role": "user", "content": "a"}]}, "no-answer", "no assistant turn"),
    ("empty answer", row(0, " \n"), "empty-answer", "has an empty answer"),
    ("unknown role", {"messages": [{"role": "wizard", "content": "a"}, *CHAT]}, "bad-role", "has an unknown role"),
    ("late system", {"messages": [*CHAT, {"role": "system", "content": "a"}, *CHAT]}, "late-system", "system message"),
    ("lone surrogate", r'{"messages": [{"role": "assistant", "content": "\ud83d"}]}', "surrogate", "half of a"),
    ("another format", {"prompt": "a", "completion": "b"}, "no-keys", "lacks the keys"),
    ("a preference", {"prompt": "a", "chosen": "b", "rejected": "c"}, "preference", "is a preference"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "kind", "said"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_is_an_error_with_its_place(data: Path, line: Any, kind: str, said: str) -> None:
    report = look(write(data, *good(), line, *good(1)))
    (problem,) = errors(report)
    assert report.refused
    assert problem.kind == kind
    assert said in problem.title
    assert problem.places == ("data.jsonl:61",)
    assert problem.remedy


def test_faults_of_one_kind_are_counted_and_the_first_places_named(data: Path) -> None:
    (problem,) = errors(look(write(data, *good(), *["{"] * 1234)))
    assert problem.title == "1,234 rows are not JSON"
    assert problem.count == 1234
    assert problem.places == tuple(f"data.jsonl:{line}" for line in range(61, 66))


def test_errors_come_before_warnings(data: Path) -> None:
    levels = [problem.level for problem in look(write(data, row(0, "Yes"), row(0, "Yes"), "{")).problems]
    assert levels == sorted(levels)
    assert set(levels) == {"error", "warning"}


def test_what_a_row_says_cannot_reach_the_terminal(data: Path) -> None:
    evil = "\x1b]52;c;aGk=\x07"
    report = look(write(data, *good(), {"messages": [{"role": evil, "content": "a"}]}, row(99, evil), row(98, evil)))
    assert "\x1b" not in json.dumps([problem.model_dump() for problem in report.problems])
    shown = look(write(data, row(1, "\x1b[2J\u202eabc"), *good())).sample[0][1]["content"]
    assert shown == "\ufffd[2J\ufffdabc"


def test_a_line_beyond_the_cap_is_told_and_not_held(data: Path) -> None:
    with data.open("wb") as file:
        file.write(b"".join(as_bytes(line) + b"\n" for line in good()))
        for _ in range(5 * MAX_LINE_BYTES // 2**20):
            file.write(b"x" * 2**20)
        file.write(b"\n" + as_bytes(row(99)) + b"\n")
    tracemalloc.start()
    report = look(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert errors(report)[0].title == "1 row is larger than 16 MiB"
    assert errors(report)[0].places == ("data.jsonl:61",)
    assert report.turns == 2 * 61  # the row behind it is read
    assert peak < 3 * MAX_LINE_BYTES


# ── what is no data file at all ──


@pytest.mark.parametrize(
    "content", [b"", '{"a": 1}'.encode("utf-16"), gzip.compress(b"{}"), b"PAR1....", b"PK\x03\x04"]
)
def test_a_file_of_another_kind_is_refused_at_once(data: Path, content: bytes) -> None:
    data.write_bytes(content)
    with pytest.raises(DataError) as caught:
        look(data)
    assert caught.value.hints


def test_a_missing_file_a_folder_and_a_pipe_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "none", "no such"), (tmp_path, "folder"), (tmp_path / "pipe", "not a plain file")):
        with pytest.raises(DataError, match=said):
            look(path)


@pytest.mark.parametrize("field", ["eval_path", "gold_path", "mix_path"])
def test_each_file_beside_the_data_must_be_there(data: Path, tmp_path: Path, field: str) -> None:
    with pytest.raises(DataError, match="no such"):
        look(write(data, *good()), **{field: str(tmp_path / "none")})


@pytest.mark.parametrize("field", ["eval_path", "gold_path", "mix_path"])
def test_a_fault_in_a_file_beside_the_data_refuses_them(data: Path, tmp_path: Path, field: str) -> None:
    other = write(tmp_path / "other.jsonl", row(99), "{")
    assert errors(look(write(data, *good()), **{field: str(other)}))[0].places == ("other.jsonl:2",)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_path_that_cannot_be_is_a_data_error(name: str) -> None:
    with pytest.raises(DataError):
        look(Path(name))


# ── figures ──


def test_a_bom_blank_lines_windows_ends_and_a_missing_last_end_are_fine(data: Path) -> None:
    lines = [as_bytes(line) for line in good(60)]
    data.write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\r\n  \n" + b"\r\n".join(lines[1:]))
    report = look(data)
    assert report.problems == ()
    assert report.rows + report.eval_rows == 60


def test_the_digest_and_the_size_are_those_of_all_bytes(data: Path) -> None:
    content = write(data, *good(), "{").read_bytes()
    report = look(data, max_rows=3)
    assert report.sha256 == hashlib.sha256(content).hexdigest()
    assert report.size_bytes == len(content)


def test_each_file_is_known_by_its_bytes(data: Path, tmp_path: Path) -> None:
    write(data, *good())
    others = {name: write(tmp_path / f"{name}.jsonl", *(row(n) for n in range(at, at + 60)))
              for at, name in ((200, "eval"), (300, "gold"), (400, "mix"))}  # fmt: skip
    report = look(data, **{f"{name}_path": str(path) for name, path in others.items()})
    for name, path in others.items():
        assert getattr(report, f"{name}_sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
    plain = look(data)
    assert (plain.eval_sha256, plain.gold_sha256, plain.mix_sha256) == ("", "", "")


def test_progress_grows_and_ends_with_all_bytes(data: Path, tmp_path: Path) -> None:
    held_out = write(tmp_path / "held.jsonl", *(row(n) for n in range(100, 105)))
    write(data, *good(), *[row(100 + n, "long " * 100_000) for n in range(8)])
    told: list[tuple[int, int]] = []
    scan(DatasetSpec(path=str(data), eval_path=str(held_out)), lambda done, total: told.append((done, total)))
    total = data.stat().st_size + held_out.stat().st_size
    assert told == sorted(told)
    assert len(told) > 2
    assert told[-1] == (total, total)


def test_roles_turns_and_the_longest_row_are_measured(data: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    long = {"messages": [CHAT[0], CHAT[1]] * 12}
    report = look(write(data, *good(58), {"messages": [system, *CHAT]}, long, row(99, "x " * 500)))
    assert report.roles == {"user": 58 + 1 + 12 + 1, "assistant": 58 + 1 + 12 + 1, "system": 1}
    assert report.turns == sum(report.roles.values())
    assert report.turn_counts == {2: 59, 3: 1, 20: 1}
    assert report.longest_characters == len("question 99") + 1000


def test_tokens_are_about_a_quarter_of_the_bytes(data: Path) -> None:
    report = look(write(data, *[row(number, "x" * 4000) for number in range(60)]), eval_fraction=0)
    assert report.approximate_tokens == pytest.approx(60 * 1000, rel=0.02)


def test_the_first_three_rows_are_shown_cut_to_what_a_screen_holds(data: Path) -> None:
    report = look(write(data, row(0, "x" * 100_000), *good()))
    assert [turns[0]["content"] for turns in report.sample] == ["question 0", "question 0", "question 1"]
    assert len(report.sample[0][1]["content"]) == SAMPLE_CHARACTERS


def test_raw_text_is_shown_as_one_message_of_its_own_role(data: Path) -> None:
    report = look(write(data, *map(text_row, range(60))))
    assert (report.kind, report.format, report.roles, report.turn_counts) == ("text", "text", {}, {})
    assert report.sample[0][0]["role"] == "text"
    assert report.sample[0][0]["content"].startswith("Text 0.")


# ── what training will draw ──


def counts(spec: DatasetSpec) -> tuple[int, int]:
    learned, held_out = split(spec, seed=1)
    return len(learned), len(held_out)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 2)), min_size=2, max_size=60), st.floats(0, 0.99))
@settings(max_examples=60, deadline=None)
def test_the_report_counts_what_the_split_makes(numbers: list[tuple[int, int]], fraction: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "data.jsonl", *[row(number, f"Answer {answer}.") for number, answer in numbers])
        spec = DatasetSpec(path=str(path), eval_fraction=fraction)
        report = scan(spec)
        assert (report.rows, report.eval_rows) == counts(spec)


def test_the_report_counts_what_the_split_makes_of_several_files(data: Path, tmp_path: Path) -> None:
    held_out = write(tmp_path / "held.jsonl", *good(4), row(99))
    gold = write(tmp_path / "gold.jsonl", row(2), row(50, "Another answer."), row(99))
    write(data, *good(60))
    for changes in ({"eval_path": str(held_out)}, {"gold_path": str(gold)},
                    {"eval_path": str(held_out), "gold_path": str(gold)}):  # fmt: skip
        spec = DatasetSpec(path=str(data), **changes)
        report = scan(spec)
        assert (report.rows, report.eval_rows) == counts(spec)


def test_only_the_first_rows_are_used_when_asked_for(data: Path) -> None:
    spec = DatasetSpec(path=str(write(data, *good(60), "{")), max_rows=10, eval_fraction=0.2)
    report = scan(spec)
    assert (report.rows, report.eval_rows, report.refused) == (*counts(spec), False) == (8, 2, False)


def test_rows_that_are_mixed_in_are_counted_as_they_are_drawn(data: Path, tmp_path: Path) -> None:
    mix = write(tmp_path / "mix.jsonl", *(row(1000 + n) for n in range(30)), row(99))
    held_out = write(tmp_path / "held.jsonl", row(99))
    spec = DatasetSpec(path=str(write(data, *good())), eval_path=str(held_out), mix_path=str(mix), mix_ratio=0.25)
    learned, kept = split(spec, seed=1)
    report = scan(spec)
    assert report.mix_rows == len(draw(spec, len(learned), {side_key(each) for each in kept}, seed=1)) == 20
    assert report.rows == 60 + 20


def test_answers_that_cannot_be_stratified_are_an_error(data: Path) -> None:
    path = write(data, *good())
    assert found(look(path, stratify="label"), "no-labels").level == "error"
    labelled = write(data, *[row(number, "ab"[number % 2]) for number in range(120)])
    assert look(labelled, stratify="label").problems == ()


# ── slices, changes under way ──


def test_a_report_can_be_had_at_any_time(data: Path) -> None:
    scanner = Scanner(DatasetSpec(path=str(write(data, *good(5000), row(1), "{"))))
    reports = [scanner.report()]
    while scanner.advance():
        reports.append(scanner.report())
    assert [report.complete for report in reports] == [False] * len(reports)
    rows = [report.rows + report.eval_rows for report in reports]
    assert rows == sorted(rows)
    assert len(set(rows)) > 3
    assert scanner.report().complete
    assert scanner.report() == look(data)
    assert not scanner.advance()


def test_a_file_that_changes_while_it_is_read_is_refused(data: Path) -> None:
    scanner = Scanner(DatasetSpec(path=str(write(data, *good(5000)))))
    scanner.advance()
    with data.open("ab") as file:
        file.write(as_bytes(row(9999)) + b"\n")
    while scanner.advance():
        pass
    assert kinds(scanner.report())[0] == "changed-while-read"
    assert scanner.report().refused
    assert "changed-while-read" not in kinds(look(data))


def test_a_file_that_grows_without_end_is_given_up(data: Path) -> None:
    scanner = Scanner(DatasetSpec(path=str(write(data, *good(5000)))))
    while scanner.advance():
        with data.open("ab") as file:
            file.write(b"".join(as_bytes(each) + b"\n" for each in good(3000)))
    assert "changed-while-read" in kinds(scanner.report())


def test_rows_behind_the_limit_are_read_but_not_compared(data: Path) -> None:
    scanner = Scanner(DatasetSpec(path=str(write(data, *good(), row(1), row(2), "{"))), RowIndex(limit=61))
    while scanner.advance():
        pass
    assert len(scanner.index) == 61
    assert found(scanner.report(), "exact-duplicates").title == "1 exact duplicate among the first 61 rows"
    assert found(scanner.report(), "not-json").places == ("data.jsonl:63",)


# ── the index of rows ──


def indexed(path: Path, **changes: Any) -> Scanner:
    scanner = Scanner(DatasetSpec(path=str(path), **changes))
    while scanner.advance():
        pass
    return scanner


def test_every_record_can_be_read_again_from_its_bookmark(data: Path) -> None:
    lines = [as_bytes(line) for line in [*good(3000), "{", row(3001)]]
    data.write_bytes(b"\n\n".join(lines))
    scanner = indexed(data)
    assert len(scanner.index) == 3002
    for at in (0, 1, 1500, 2999, 3000, 3001):
        line = scanner.index.line(at)
        assert line == 2 * at + 1
        record = scanner.reader.at(data, scanner.index.offset(at), line)
        assert (record.value is None) == (at == 3000)
        if record.value is not None:
            assert as_bytes(record.value) == lines[at]


def test_each_row_knows_its_findings(data: Path) -> None:
    index = indexed(write(data, *good(), "{", row(1), row(7, "Nonsense")), eval_fraction=0.1).index
    assert [index.kinds(at) for at in (0, 60)] == [(), ("not-json",)]
    assert set(index.kinds(61)) == {"exact-duplicates"}
    assert set(index.kinds(62)) == {"one-word-answers", "contradictions"}
    assert index.kinds(7) == ("contradictions",)
    assert index.findings(60) == ("row is not JSON",)
    assert index.findings(61) == ("row repeats an earlier one",)


def test_rows_with_findings_are_found_in_both_directions(data: Path) -> None:
    index = indexed(write(data, *good(), "{", *[row(100 + n) for n in range(9)], "{")).index
    assert index.next_finding(-1) == 60
    assert index.next_finding(60) == 70
    assert index.next_finding(70) is None
    assert index.next_finding(70, back=True) == 60
    assert index.next_finding(60, back=True) is None
    assert index.next_finding(len(index), back=True) == 70


def test_labels_are_no_finding_of_their_rows(data: Path) -> None:
    index = indexed(write(data, *[row(number, "ab"[number % 2]) for number in range(120)])).index
    assert index.next_finding(-1) is None


def test_other_passes_add_their_own_findings() -> None:
    index = RowIndex()
    index.extend([1, 2, 3], [0, 10, 20])
    index.flag([1, 99], "near-duplicates", "row is almost like line 1")
    assert index.kinds(1) == ("near-duplicates",)
    assert index.findings(1) == ("row is almost like line 1",)
    assert index.next_finding(-1) == 1
    assert index.next_finding(1) is None


# ── any bytes ──

KEYS = ["messages", "conversations", "role", "content", "from", "value", "instruction", "output", "prompt", "text"]
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
lines_like = st.lists(json_like.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40), max_size=8)


@given(st.binary(max_size=300) | lines_like.map(b"\n".join), st.sampled_from([".jsonl", ".json", ".csv", ".txt"]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_a_report_or_a_data_error(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{suffix}"
        path.write_bytes(content)
        try:
            report = look(path)
        except DataError:
            return
        report.model_dump_json()
        if not report.refused:
            assert report.rows + report.eval_rows == len(list(read_rows(path)))


SAMPLES = sorted(path for path in (Path(__file__).parents[2] / "data" / "datasets").rglob("*") if path.is_file())


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_each_sample_ends_in_a_report_or_a_data_error(path: Path) -> None:
    try:
        report = look(path)
    except DataError:
        return
    assert report.size_bytes == path.stat().st_size
