"""The check as a whole: its passes, what stays when it is stopped, and its rows as they are shown."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from engine.config import DatasetSpec, Preset
from engine.datasets import check as module
from engine.datasets.check import Check, Step, report_for_plan, steps
from engine.datasets.report import DatasetReport, ShownRow
from engine.datasets.reread import spread
from engine.errors import DataError, FinetuiError, UsageError
from engine.presets import find_preset
from engine.tokens.tokenizer import Tokenizer

Write = Callable[..., Path]
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(*rows: Any, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return to_file


@pytest.fixture(scope="module")
def demo() -> Preset:
    return find_preset("demo")


def row(number: int, answer: str = "It is on its way to you, and comes tomorrow.") -> dict[str, Any]:
    question = f"My order {number} did not come, and {number + 7} others did: where is number {number * 13}?"
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def rows(count: int) -> list[dict[str, Any]]:
    return [row(number, f"Order {number} is on its way {'today ' * (number % 20)}.") for number in range(count)]


def spec(path: Path, **changes: Any) -> DatasetSpec:
    return DatasetSpec(path=str(path), **changes)


def through(check: Check) -> DatasetReport:
    report = [step.report for step in check.steps()][-1]
    assert report is not None
    return report


def kinds(report: DatasetReport) -> set[str]:
    return {problem.kind for problem in report.problems}


# ── passes ───────────────────────────────────────────────────────────────────────────────────────────────


def test_too_little_text_is_judged_by_the_tokens_as_they_were_counted(write: Write, demo: Preset) -> None:
    # the demo's small vocabulary needs more tokens for a text than its length lets one think
    path = write(*({"text": f"{at} Xylophonquartettzwölftöne {at * 7919} " * 60} for at in range(100)))
    estimated = through(Check(spec(path), demo, tokens=False, near=False))
    assert "few-rows" in kinds(estimated)
    counted = through(Check(spec(path), demo, near=False))
    assert counted.approximate_tokens > 100_000 > estimated.approximate_tokens
    assert "few-rows" not in kinds(counted)


def test_the_passes_come_in_order_and_the_last_step_has_everything(write: Write, demo: Preset) -> None:
    found = list(steps(spec(write(*rows(300))), demo))
    assert list(dict.fromkeys(step.phase for step in found)) == ["reading", "tokens", "near duplicates", "done"]
    last = found[-1].report
    assert last is not None
    assert last.complete
    assert last.tokens is not None
    assert (last.tokens.rows, last.tokens.of_rows, last.near_checked) == (300, 300, 300)
    assert all(0 <= step.done <= step.total for step in found)


def test_reports_come_on_the_way(write: Write, demo: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPORT_INTERVAL_S", 0.0)
    monkeypatch.setattr(module, "REPORT_SHARE", 1e9)
    found = list(steps(spec(write(*rows(3000))), demo))
    reading = [step.report for step in found if step.phase == "reading" and step.report]
    assert [report.complete for report in reading][:1] == [False]
    counted = [
        step.report.tokens.rows for step in found if step.phase == "tokens" and step.report and step.report.tokens
    ]
    assert counted == sorted(counted)
    assert 0 < counted[0] < counted[-1] <= 3000


def test_what_was_counted_stays_when_the_deeper_passes_are_stopped(write: Write, demo: Preset) -> None:
    check = Check(spec(write(*rows(1000))), demo)
    last: Step | None = None
    for last in check.steps():
        if last.phase == "tokens":
            check.stop_deeper()
    assert last is not None
    assert last.report is not None
    assert last.report.tokens is not None
    assert 0 < last.report.tokens.rows < last.report.tokens.of_rows == 1000
    assert last.report.near_checked == 0


def test_near_duplicates_of_a_part_say_so(write: Write) -> None:
    question = " ".join(f"word{number}" for number in range(60))
    check = Check(spec(write(*[row(0, f"{question} {number}") for number in range(400)])), None)
    report = None
    for step in check.steps():
        report = step.report
        if step.phase == "near duplicates":
            check.stop_deeper()
    assert report is not None
    near = next(problem for problem in report.problems if problem.kind == "near-duplicates")
    assert near.title == f"{near.count} near duplicates among the first {report.near_checked} rows"
    assert near.count == report.near_checked - 1 < 399


def test_near_duplicates_have_places_and_exact_ones_are_not_counted_again(write: Write) -> None:
    question = " ".join(f"word{number}" for number in range(60))
    report = through(Check(spec(write(*rows(60), row(1, question), row(1, question), row(1, f"{question} end"))), None))
    near = next(problem for problem in report.problems if problem.kind == "near-duplicates")
    assert (near.count, near.places) == (1, ("data.jsonl:63",))
    assert "exact-duplicates" in kinds(report)


def test_different_rows_are_not_near(write: Write) -> None:
    assert "near-duplicates" not in kinds(through(Check(spec(write(*rows(60))), None)))


def test_a_sample_is_spread_evenly(write: Write, demo: Preset) -> None:
    assert spread(10, 5) == [1, 3, 5, 7, 9]
    check = Check(spec(write(*rows(1000))), demo, near=False, sample=100)
    stats = through(check).tokens
    assert stats is not None
    assert (stats.rows, stats.of_rows) == (100, 1000)


def test_a_plans_token_count_is_that_of_the_tokenizer(
    write: Write, demo: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = spec(write(*rows(1000)), eval_fraction=0.1)
    exact = through(Check(data, demo, near=False))
    assert exact.tokens is not None
    assert exact.approximate_tokens == round(exact.tokens.tokens / 1000 * 900)
    monkeypatch.setattr(module, "PLAN_ROWS", 200)
    assert report_for_plan(data, demo).approximate_tokens == pytest.approx(exact.approximate_tokens, rel=0.03)


def test_without_the_tokenizer_the_step_says_why(write: Write, demo: Preset) -> None:
    elsewhere = demo.model_copy(update={"model": "nobody/nowhere"})
    last = list(steps(spec(write(*rows(60))), elsewhere))[-1]
    assert "not on this machine" in last.note
    assert last.report is not None
    assert last.report.tokens is None
    assert last.report.approximate_tokens > 0


def test_rows_that_are_held_out_elsewhere_are_not_counted(write: Write, demo: Preset) -> None:
    held_out = write(*rows(10), name="held_out.jsonl")
    stats = through(Check(spec(write(*rows(100)), eval_path=str(held_out)), demo)).tokens
    assert stats is not None
    assert (stats.rows, stats.of_rows) == (90, 90)


def test_only_so_many_rows_as_are_wanted_are_counted(write: Write, demo: Preset) -> None:
    report = through(Check(spec(write(*rows(400)), max_rows=300), demo))
    assert report.tokens is not None
    assert (report.tokens.rows, report.near_checked) == (300, 300)


def test_no_such_file_is_an_error(tmp_path: Path) -> None:
    check = Check(spec(tmp_path / "nowhere.jsonl"), None)
    with pytest.raises(DataError, match="no such"):
        list(check.steps())
    with pytest.raises(UsageError):
        check.row(0)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────


def shown(path: Path, preset: Preset | None, index: int) -> ShownRow:
    check = Check(spec(path), preset)
    through(check)
    found = check.row(index)
    assert found is not None
    return found


def test_a_rows_pieces_are_the_rendered_conversation_with_its_answer_trained(write: Write, demo: Preset) -> None:
    data = [row(1, "Yes.\n\nIt is 👩‍🚀 日本語!")]
    found = shown(write(*data), demo, 0)
    text = Tokenizer.load(Path(demo.model)).render(data[0]["messages"])
    assert "".join(piece.text for piece in found.pieces) == text
    assert "".join(piece.text for piece in found.pieces if piece.trained) == "Yes.\n\nIt is 👩‍🚀 日本語!<|eot_id|>"
    assert "👩" in {piece.text for piece in found.pieces}  # several tokens, one piece
    assert {piece.text for piece in found.pieces if piece.special} >= {"<|begin_of_text|>", "<|eot_id|>"}
    assert (found.index, found.line, found.place, found.cut) == (0, 1, "data.jsonl:1", None)
    assert found.tokens > found.trained > 0


def test_behind_the_cut_nothing_is_trained(write: Write, demo: Preset) -> None:
    found = shown(write(row(1, "long " * 300)), demo, 0)
    assert found.cut is not None
    assert len([*found.pieces[: found.cut]]) == demo.train.max_length
    assert not any(piece.trained for piece in found.pieces[found.cut :])
    assert found.trained == sum(piece.trained for piece in found.pieces)
    assert "cut" in found.note
    assert "row is longer than max_length" in found.findings


def test_a_row_can_be_shown_with_another_cut(write: Write, demo: Preset) -> None:
    check = Check(spec(write(row(1, "long " * 300))), demo)
    through(check)
    longer, shorter = check.row(0, max_length=1000), check.row(0, max_length=60)
    assert longer is not None
    assert shorter is not None
    assert (longer.cut, longer.findings) == (None, ())
    assert len(shorter.pieces[: shorter.cut]) == 60


def test_without_a_tokenizer_a_row_is_shown_by_role(write: Write) -> None:
    found = shown(write(row(1, "The answer.")), None, 0)
    assert [piece.text for piece in found.pieces if piece.trained] == ["The answer."]
    assert found.note == "by role: choose a model to see its tokens"


def test_a_raw_text_is_trained_whole(write: Write, demo: Preset) -> None:
    text = "A text to go on with. " * 40
    found = shown(write(*[{"text": text}] * 2), demo, 0)
    assert "".join(piece.text for piece in found.pieces if not piece.special) == text
    assert all(piece.trained for piece in found.pieces)
    assert found.cut is None


def test_a_row_that_cannot_be_read_is_shown_as_it_stands_in_the_file(write: Write, demo: Preset) -> None:
    found = shown(write(row(1), '{"broken": \x1b[31m'), demo, 1)
    assert found.findings[0].startswith("row is not JSON: ")
    assert "".join(piece.text for piece in found.pieces) == '{"broken": \ufffd[31m'


def test_a_row_without_an_answer_is_shown_with_the_reason(write: Write, demo: Preset) -> None:
    unanswered = {"messages": [{"role": "user", "content": "Anybody there?"}]}
    found = shown(write(row(1), unanswered), demo, 1)
    assert "no assistant turn" in found.findings[0]
    assert "Anybody there?" in found.pieces[0].text


def test_a_near_duplicate_names_its_twin(write: Write) -> None:
    question = " ".join(f"word{number}" for number in range(60))
    found = shown(write(row(1), row(2, question), row(2, f"{question} end")), None, 2)
    assert any(finding.startswith("near duplicate of row 2 (data.jsonl:2)") for finding in found.findings)


def test_rows_are_asked_for_while_the_file_is_read(write: Write) -> None:
    check = Check(spec(write(*rows(2000))), None)
    assert check.row(0) is None
    answers = [check.row(1500) for _ in check.steps()]
    assert answers[0] is None
    assert answers[-1] is not None
    with pytest.raises(UsageError, match="no row 2,001"):
        check.row(2000)


def test_a_parquet_row_is_shown_and_a_broken_one_has_no_text(tmp_path: Path, demo: Preset) -> None:
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([*rows(300), {"messages": None}]), path)
    check = Check(spec(path), demo, near=False, sample=10)
    stats = through(check).tokens
    assert stats is not None
    assert stats.rows == 10
    found = check.row(299)
    assert found is not None
    assert found.place == "data.parquet:row 300"
    assert "order 299" in "".join(piece.text for piece in found.pieces)
    broken = check.row(300)
    assert broken is not None
    assert broken.findings


def test_the_next_finding_goes_around_the_end(write: Write) -> None:
    check = Check(spec(write(row(1), "{broken", row(3), "{broken", row(5))), None)
    through(check)
    assert [check.next_finding(at) for at in (-1, 1, 3)] == [1, 3, 1]
    assert [check.next_finding(at, back=True) for at in (4, 3, 1)] == [3, 1, 3]


def test_rows_without_findings_have_no_next_one(write: Write) -> None:
    check = Check(spec(write(*rows(60))), None)
    through(check)
    assert check.next_finding(0) is None


LINES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: json.dumps(row(1, text + "\x1b]0;x\x07\u202e")).encode()),
    st.text(max_size=60).map(lambda text: json.dumps({"text": text}).encode()),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=6), st.sampled_from(["jsonl", "json", "csv", "txt", "parquet"]))
def test_whatever_the_file_holds_every_row_can_be_shown_and_none_commands_the_terminal(
    lines: list[bytes], suffix: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data.{suffix}"
        path.write_bytes(b"\n".join(lines))
        check = Check(spec(path), find_preset("demo"))
        try:
            through(check)
        except FinetuiError:
            return  # refused in words
        for index in range(len(check._index)):
            found = check.row(index)
            assert found is not None
            for text in (*found.findings, *(piece.text for piece in found.pieces), found.place, found.note):
                assert not UNSAFE.search(text)
