"""Where findings begin: one row more or less than the threshold; and what a scan does not look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from datafiles import good, kinds, look, row, write

from engine.config import DatasetSpec
from engine.datasets.findings.amount import amount_problems
from engine.datasets.scan import Scanner


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


@pytest.mark.parametrize(
    ("rows", "text_tokens", "told"),
    [(49, None, ["few-rows"]), (50, None, []), (9, 99_999, ["few-rows"]), (9, 100_000, []), (1, 10**6, ["few-rows"])],
)
def test_how_little_is_too_little(rows: int, text_tokens: int | None, told: list[str]) -> None:
    assert [problem.kind for problem in amount_problems(rows, 2, text_tokens)] == told


def test_a_single_row_is_an_error_and_a_few_are_a_warning() -> None:
    assert [problem.level for rows in (0, 1, 2) for problem in amount_problems(rows, 1, None)] == [
        "error",
        "error",
        "warning",
    ]


def test_what_is_to_be_set_to_hold_rows_back_is_named_in_full() -> None:
    (problem,) = amount_problems(60, 0, None)
    assert "data.eval_fraction" in problem.remedy
    assert "data.eval_path" in problem.remedy


@pytest.mark.parametrize(("rows", "labels"), [(10, 2), (9, 0)])
def test_labels_have_at_least_five_rows_on_average(data: Path, rows: int, labels: int) -> None:
    assert len(look(write(data, *[row(number, "ab"[number % 2]) for number in range(rows)])).labels) == labels


@pytest.mark.parametrize(("long", "labels"), [(1, 2), (2, 0)])
def test_one_answer_in_a_hundred_may_be_long_among_labels(data: Path, long: int, labels: int) -> None:
    said = ["x" * 65] * long + ["ab"[number % 2] for number in range(100 - long)]
    assert len(look(write(data, *[row(number, answer) for number, answer in enumerate(said)])).labels) == labels


def test_only_the_user_s_turns_are_prompts(data: Path) -> None:
    empty = {"messages": [{"role": "system", "content": ""}, *row(99)["messages"]]}
    assert look(write(data, *good(), empty)).problems == ()


def test_rows_that_cannot_be_used_are_no_duplicates_of_each_other(data: Path) -> None:
    assert kinds(look(write(data, row(900), "{", row(901), "{", *good(60)))) == ["not-json"]


def test_what_is_behind_the_first_rows_is_neither_read_nor_known(data: Path) -> None:
    scanner = Scanner(DatasetSpec(path=str(write(data, *good(5000))), max_rows=10))
    assert sum(scanner.advance() for _ in range(100)) < 6  # two blocks, and what is left of the digest
    assert scanner.complete
    assert len(scanner.index) == 10
