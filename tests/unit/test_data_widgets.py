"""The widgets of the data step: findings, lengths with the limit, a row with its mask; what follows from the limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import DatasetSpec
from engine.datasets.check import steps
from engine.datasets.report import DatasetReport, Piece, Problem, ShownRow, TokenStats, Verdict
from engine.presets import find_preset, override
from tui.modals.columns import is_whole, mapping_text
from tui.screens.setup.draft import Draft
from tui.screens.setup.limit import at_limit, moved, row_at_limit
from tui.screens.setup.pace import Pace
from tui.widgets.data_report import describe_report
from tui.widgets.finding_list import findings_of, short_places
from tui.widgets.length_histogram import axis, bars, densities, describe_cut, scale_of
from tui.widgets.mask_view import MAX_CHARACTERS, describe_row

WIDTH = 64


def stats_of(lengths: list[int], width: int = WIDTH) -> TokenStats:
    """Rows of these lengths, of which the second half is trained."""
    bins = max(lengths) // width + 1
    by_length, at, trained, firsts = [0] * bins, [0] * bins, [0] * bins, [0] * bins
    for length in lengths:
        by_length[max(length - 1, 0) // width] += 1
        firsts[length // 2 // width] += 1
        for position in range(length):
            at[position // width] += 1
            trained[position // width] += position >= length // 2
    ordered = sorted(lengths)
    return TokenStats(
        tokenizer="a tokenizer",
        rows=len(lengths),
        of_rows=len(lengths),
        max_length=2048,
        tokens=sum(at),
        trained=sum(trained),
        longest=ordered[-1],
        median=ordered[len(ordered) // 2],
        p95=ordered[int(len(ordered) * 0.95)],
        truncated=0,
        lost=0,
        dropped=0,
        width=width,
        lengths=tuple(by_length),
        tokens_at=tuple(at),
        trained_at=tuple(trained),
        firsts=tuple(firsts),
    )


def report(**changes: Any) -> DatasetReport:
    fields: dict[str, Any] = {
        "path": "support.jsonl",
        "format": "messages",
        "container": "JSON Lines",
        "sha256": "0" * 64,
        "size_bytes": 1 << 20,
        "rows": 7512,
        "eval_rows": 301,
        "turns": 15024,
        "approximate_tokens": 3_100_000,
        "longest_characters": 900,
    }
    return DatasetReport(**{**fields, **changes})


def problem(level: str, title: str, places: tuple[str, ...] = (), count: int = 1, kind: str = "a-kind") -> Problem:
    return Problem(kind=kind, level=level, title=title, count=count, places=places)  # type: ignore[arg-type]


# ── findings ─────────────────────────────────────────────────────────────────────────────────────────────


def test_errors_come_before_warnings_and_what_is_well_comes_last() -> None:
    stats = stats_of([100]).model_copy(update={"verdicts": (Verdict(level="ok", title="it stops"),)})
    found = findings_of(report(problems=(problem("warning", "w"), problem("error", "e")), tokens=stats))
    assert [finding.title for finding in found] == ["e", "w", "it stops"]


def test_a_file_is_named_once_for_its_places() -> None:
    assert short_places(problem("error", "e", ("a.jsonl:4411", "a.jsonl:7020"), 9)) == "a.jsonl:4411, :7020 …"
    assert short_places(problem("error", "e", ("a.jsonl:1", "b.jsonl:2"), 2)) == "a.jsonl:1, b.jsonl:2"
    assert short_places(problem("error", "e")) == ""


def test_that_nothing_is_wrong_is_said_only_once_all_is_read() -> None:
    assert findings_of(report(complete=False)) == []
    assert findings_of(report())[0].level == "ok"


def test_a_report_names_format_rows_tokens_and_what_they_are_made_of() -> None:
    facts = {"roles": {"system": 12, "user": 9}, "turn_counts": {2: 9, 4: 1}, "labels": (("refund", 3), ("other", 1))}
    shown = describe_report(report(tokens=stats_of([100, 200]), **facts)).plain
    assert "messages (detected)" in shown
    assert "7,512 rows · 301 held out · 300 tokens, 150 trained" in shown
    assert "2 turns a row in 90 %, up to 4 · 12 system turns · labels: refund 75 %, other 25 %" in shown
    assert "as you chose" in describe_report(report(), forced=True).plain


# ── lengths ──────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=60), st.integers(16, 131_072), st.integers(1, 200))
def test_every_row_and_the_limit_have_a_place_on_the_axis(lengths: list[int], limit: int, columns: int) -> None:
    stats = stats_of(lengths)
    scale = scale_of(stats, limit, columns)
    values = densities(stats, scale)
    assert sum(values) == pytest.approx(len(lengths))
    assert 0 <= scale.column(limit) < columns
    assert axis(scale, limit, columns).cell_length == columns


def test_the_tallest_column_is_as_high_as_the_picture_and_a_single_row_is_seen() -> None:
    assert bars([0.0, 1000.0, 1.0, 0.0], 2) == ["⢸ ", "⢸⡀"]


def test_the_limit_stands_on_the_axis_where_it_cuts() -> None:
    scale = scale_of(stats_of([64, 4096]), 512, 60)
    words = axis(scale, 512, 60).plain
    assert words.index("┊ 512") == int(scale.column(512))


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=40), st.integers(1, 60))
def test_what_a_limit_costs_is_what_is_said(lengths: list[int], bins: int) -> None:
    limit, stats = bins * WIDTH, stats_of(lengths)
    cut = sum(length > limit for length in lengths)
    said = describe_cut(stats, limit).plain
    assert ("no row is cut" in said) == (cut == 0)
    assert cut == 0 or f"! {cut:,} row" in said


# ── a row ────────────────────────────────────────────────────────────────────────────────────────────────


def pieces(*parts: tuple[str, bool, bool]) -> tuple[Piece, ...]:
    return tuple(Piece(text=text, trained=trained, special=special) for text, trained, special in parts)


ROW = ShownRow(
    index=11,
    line=12,
    place="support.jsonl:12",
    pieces=pieces(
        ("<|user|>", False, True),
        ("Hello?", False, False),
        ("I am", True, False),
        (" fine", True, False),
        ("<|end|>", True, True),
        ("\n", False, False),
        ("Bye", True, False),
    ),
    tokens=7,
    trained=4,
)


def test_each_trained_run_stands_between_marks_that_need_no_colour() -> None:
    assert describe_row(ROW).plain == "<|user|>Hello?▐I am fine<|end|>▌\n▐Bye▌"


def test_what_is_trained_is_bold_and_underlined() -> None:
    shown = describe_row(ROW)
    styles = {shown.plain[span.start : span.end]: str(span.style) for span in shown.spans}
    assert "bold underline" in styles["I am fine"]
    assert "underline" not in styles["<|user|>"]


def test_what_is_cut_off_stands_behind_a_border_and_is_not_marked() -> None:
    shown = describe_row(ROW.model_copy(update={"cut": 4})).plain
    assert shown.startswith("<|user|>Hello?▐I am fine▌\n┄┄ max_length cuts here")
    assert shown.endswith("\n<|end|>\nBye")


def test_what_is_wrong_with_a_row_stands_above_it() -> None:
    shown = describe_row(ROW.model_copy(update={"findings": ("repeats row 3",), "note": "by role"})).plain
    assert shown.splitlines()[:2] == ["! repeats row 3", "by role"]


def test_a_very_long_row_is_not_drawn_to_its_end() -> None:
    shown = describe_row(ROW.model_copy(update={"pieces": pieces(("x" * MAX_CHARACTERS * 2, True, False))})).plain
    assert len(shown) < MAX_CHARACTERS + 100
    assert "more characters" in shown


# ── what follows from the limit ──────────────────────────────────────────────────────────────────────────


def checked(path: Path, max_length: int) -> DatasetReport:
    preset = override(find_preset("demo"), {"train.max_length": str(max_length)})
    *_, last = steps(DatasetSpec(path=str(path)), preset, near=False)
    assert last.report is not None
    return last.report


@pytest.mark.parametrize("limits", [(128, 64), (64, 128), (64, 512), (128, 16)])
def test_a_moved_limit_reports_what_a_check_with_that_limit_reports(tmp_path: Path, limits: tuple[int, int]) -> None:
    path = tmp_path / "rows.jsonl"
    words = [("word " * (at * 3 % 90), "answer " * (at * 7 % 40 + 1)) for at in range(80)]
    rows = [
        {"messages": [{"role": "user", "content": f"{at} {q}"}, {"role": "assistant", "content": a}]}
        for at, (q, a) in enumerate(words)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    before, after = (checked(path, limit) for limit in limits)
    found = at_limit(before, limits[1])
    assert found.tokens is not None
    assert after.tokens is not None
    kept = {"verdicts": found.tokens.verdicts}  # which answers keep their end is counted by the check alone
    assert found.tokens == after.tokens.model_copy(update=kept)
    assert found.refused == after.refused
    assert {(p.kind, p.level, p.title, p.count) for p in found.problems} == {
        (p.kind, p.level, p.title, p.count) for p in after.problems
    }


def test_a_row_is_not_too_long_for_a_limit_that_it_is_within() -> None:
    said = "row is longer than max_length"
    row = ROW.model_copy(update={"findings": (said, "repeats row 3")})
    assert row_at_limit(row).findings == ("repeats row 3",)
    assert row_at_limit(row.model_copy(update={"cut": 2})).findings == (said, "repeats row 3")


def test_the_limit_ends_where_the_model_does() -> None:
    draft = Draft(find_preset("demo"))
    for _ in range(20):
        draft = moved(draft, 1)
    assert draft.tuned is not None
    assert draft.tuned.train.max_length == draft.tuned.context_length


def test_a_limit_that_is_moved_back_is_no_change() -> None:
    draft = Draft(find_preset("demo"))
    assert moved(moved(draft, 1), -1).changes == {}


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────


def test_columns_of_one_part_are_joined() -> None:
    parts = {"id": "–", "title": "user", "body": "user", "reply": "assistant"}
    assert mapping_text(parts) == "user={title}\n{body}, assistant=reply"


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["user", "assistant", "–"], True),
        (["text", "–"], True),
        (["system", "user", "assistant"], True),
        (["user"], False),
        (["text", "user", "assistant"], False),
        ([], False),
    ],
)
def test_a_mapping_is_whole_when_it_makes_a_row(parts: list[str], whole: bool) -> None:
    assert is_whole(parts) == whole


def test_progress_tells_share_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    pace = Pace()
    pace.line("reading", 0, 400 << 20, "bytes")
    now[0] += 2
    assert pace.line("reading", 100 << 20, 400 << 20, "bytes").plain == (
        "reading ▕███░░░░░░░░░▏ 25 % · 100 MiB of 400 MiB · 50.0 MiB/s · 6.0 s left"
    )
    assert "of 400" not in pace.line("reading", 100 << 20, 400 << 20, "bytes", width=60).plain
