"""The report's values: what a cut costs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.datasets.report import Cut, DatasetReport, Problem, TokenStats

WIDTH = 4
rows_of_marks = st.lists(st.lists(st.booleans(), max_size=30), min_size=1, max_size=12)


def stats(rows: list[list[bool]]) -> TokenStats:
    """The statistics of rows, each given by which of its tokens are trained."""
    bins = 30 // WIDTH + 1

    def histogram(places: list[int]) -> tuple[int, ...]:
        return tuple(sum(place // WIDTH == each for place in places) for each in range(bins))

    firsts = [row.index(True) for row in rows if any(row)]
    return TokenStats(
        tokenizer="t",
        rows=len(rows),
        of_rows=len(rows),
        max_length=8,
        tokens=sum(map(len, rows)),
        trained=sum(map(sum, rows)),
        longest=max(map(len, rows)),
        median=0,
        p95=0,
        truncated=0,
        lost=0,
        dropped=0,
        width=WIDTH,
        lengths=histogram([max(0, len(row) - 1) for row in rows]),
        tokens_at=histogram([place for row in rows for place in range(len(row))]),
        trained_at=histogram([place for row in rows for place, trained in enumerate(row) if trained]),
        firsts=histogram(firsts),
    )


def cost(rows: list[list[bool]], max_length: int) -> Cut:
    """The same, token by token."""
    behind = [row[max_length:] for row in rows]
    lost, trained = sum(map(sum, behind)), sum(map(sum, rows))
    return Cut(
        rows=sum(map(bool, behind)),
        tokens_lost=sum(map(len, behind)),
        trained_lost=lost,
        dropped=sum(not any(row[:max_length]) for row in rows),
        trained_share=lost / trained if trained else 0.0,
    )


@given(rows_of_marks, st.integers(1, 10))
def test_a_cut_at_a_multiple_of_the_width_is_exact(rows: list[list[bool]], bins: int) -> None:
    assert stats(rows).cut(bins * WIDTH) == cost(rows, bins * WIDTH)


@given(rows_of_marks, st.integers(0, 40))
def test_a_cut_between_two_bins_costs_what_the_lower_one_costs(rows: list[list[bool]], length: int) -> None:
    assert stats(rows).cut(length)[1:] == cost(rows, length // WIDTH * WIDTH)[1:]


def report(**changes: Any) -> DatasetReport:
    values: dict[str, Any] = {
        "path": "data.jsonl", "format": "messages", "sha256": "", "size_bytes": 1, "rows": 1, "eval_rows": 0,
        "turns": 2, "approximate_tokens": 1, "longest_characters": 1,
    }  # fmt: skip
    return DatasetReport(**(values | changes))


@pytest.mark.parametrize(("level", "refused"), [("error", True), ("warning", False)])
def test_only_errors_refuse_the_data(level: Any, refused: bool) -> None:
    assert report(problems=(Problem(kind="k", level=level, title="t", count=1),)).refused is refused


def test_a_report_survives_json() -> None:
    whole = report(
        tokens=stats([[False, True]]),
        labels=(("yes", 3),),
        turn_counts={2: 1},
        sample=(({"role": "user", "content": "Hi"},),),
    )
    assert DatasetReport.model_validate_json(whole.model_dump_json()) == whole
