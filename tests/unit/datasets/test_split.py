"""The split: which rows are learned from and which are held out."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import DatasetSpec
from engine.datasets.base import Row
from engine.datasets.identity import answer_index
from engine.datasets.mix import draw, mixed_count
from engine.datasets.rows import read_rows
from engine.datasets.scan import scan
from engine.datasets.split import MAX_LABELS, held_out_target, label_of, read_gold, side_key, split
from engine.errors import UsageError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(*lines: str | dict[str, Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
        return path

    return to_file


def row(number: int, answer: str = "ok") -> dict[str, Any]:
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def good(count: int = 60) -> list[dict[str, Any]]:
    return [row(number) for number in range(count)]


def test_the_report_counts_what_the_split_makes(write: Write) -> None:
    spec = DatasetSpec(path=str(write(*good(60), *good(20), row(1))), eval_fraction=0.9)
    report = scan(spec)
    learned, held_out = split(spec, seed=1)
    assert (report.rows, report.eval_rows) == (len(learned), len(held_out)) == (9, 72)


def test_the_report_counts_what_the_split_makes_of_two_files(write: Write) -> None:
    spec = DatasetSpec(path=str(write(*good(60))), eval_path=str(write(*good(4), row(99), name="held.jsonl")))
    report = scan(spec)
    learned, held_out = split(spec, seed=1)
    assert (report.rows, report.eval_rows) == (len(learned), len(held_out)) == (56, 5)
    assert any(problem.title == "4 rows are also held out" for problem in report.problems)


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
    assert held_out_target(rows, fraction) == count


# ── what asks the same stays together ──


def pair(prompt: str, answer: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def prompts(rows: list[Row]) -> set[str]:
    return {row.messages[0]["content"] for row in rows}


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=2, max_size=40),
    st.floats(0, 0.99),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_rows_that_ask_the_same_never_stand_on_both_sides(
    said: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        path.write_text("".join(json.dumps(pair(f"q{q}", f"a{a}")) + "\n" for q, a in said), encoding="utf-8")
        spec = DatasetSpec(path=str(path), eval_fraction=fraction)
        learned, held_out = split(spec, seed)
    assert len(learned) + len(held_out) == len(said)
    assert not prompts(learned) & prompts(held_out)
    assert len(held_out) <= held_out_target(len(said), fraction)


def talk(*said: str) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]}


def asked(rows: list[Row]) -> set[str]:
    """Everything that is answered in these rows."""
    return {
        str(row.messages[:at])
        for row in rows
        for at, message in enumerate(row.messages)
        if message["role"] == "assistant"
    }


@given(
    st.lists(st.lists(st.sampled_from("ab"), min_size=2, max_size=8), min_size=2, max_size=30),
    st.floats(0, 0.99),
    st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_no_held_out_question_is_an_earlier_turn_of_what_is_learned(
    said: list[list[str]], fraction: float, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        path.write_text("".join(json.dumps(talk(*texts)) + "\n" for texts in said), encoding="utf-8")
        spec = DatasetSpec(path=str(path), eval_fraction=fraction)
        learned, held_out = split(spec, seed)
        report = scan(spec)
    assert not asked(learned) & {str(row.messages[: answer_index(row.messages)]) for row in held_out}
    assert (report.rows, report.eval_rows) == (len(learned), len(held_out))


def test_a_conversation_written_out_turn_by_turn_stays_together(write: Write) -> None:
    whole = [[f"{turn} of {number}" for turn in range(6)] for number in range(20)]
    lines = [talk(*texts[:end]) for texts in whole for end in (2, 4, 6)]
    learned, held_out = split(DatasetSpec(path=str(write(*lines)), eval_fraction=0.1), 1)
    assert (len(learned), len(held_out)) == (54, 6)
    assert not prompts(learned) & prompts(held_out)


def test_a_common_opening_joins_no_conversations(write: Write) -> None:
    lines = [talk("Hi", "Hello!", f"question {number}", f"answer {number}") for number in range(50)]
    assert len(split(DatasetSpec(path=str(write(*lines)), eval_fraction=0.1), 1)[1]) == 5


@pytest.mark.parametrize("field", ["eval_path", "gold_path"])
def test_what_another_file_asks_is_learned_in_no_earlier_turn(write: Write, field: str) -> None:
    lines = [talk(f"q{number}", "yes", "And?", f"no {number}") for number in range(10)]
    other = str(write(talk("q3", "yes"), name="other.jsonl"))
    spec = DatasetSpec(path=str(write(*lines)), mix_path=str(write(*lines, name="mix.jsonl")), mix_ratio=0.4,
                       eval_fraction=0, **{field: other})  # fmt: skip
    learned = split(spec, 1)[0]
    mixed = draw(spec, 100, {side_key(row) for row in read_rows(Path(other))}, 1)
    report = scan(spec)
    assert prompts(learned) == prompts(mixed) == {f"q{number}" for number in range(10) if number != 3}
    assert (report.rows - report.mix_rows, mixed_count(9, 9, 0.4)) == (9, report.mix_rows)


def test_rows_that_come_in_pairs_are_held_out_in_pairs(write: Write) -> None:
    lines = [pair(f"q{number}", answer) for number in range(50) for answer in ("yes", "no")]
    learned, held_out = split(DatasetSpec(path=str(write(*lines)), eval_fraction=0.1), 1)
    assert (len(learned), len(held_out), len(prompts(held_out))) == (90, 10, 5)


def test_how_many_are_held_out_does_not_hang_on_the_seed(write: Write) -> None:
    lines = [pair(f"q{number // (1 + number % 4)}", str(number)) for number in range(80)]
    spec = DatasetSpec(path=str(write(*lines)), eval_fraction=0.6)
    assert len({len(split(spec, seed)[1]) for seed in range(20)}) == 1
    assert len({tuple(row.line for row in split(spec, seed)[1]) for seed in range(20)}) > 10


def test_a_shared_system_message_is_no_question(write: Write) -> None:
    def alone(number: int) -> dict[str, Any]:
        turns = [{"role": "system", "content": "Tell a joke."}, {"role": "assistant", "content": f"joke {number}"}]
        return {"messages": turns}

    spec = DatasetSpec(path=str(write(*map(alone, range(20)))), eval_fraction=0.2)
    assert len(split(spec, 1)[1]) == 4


def test_texts_are_split_and_equal_ones_stay_together(write: Write) -> None:
    lines = [{"text": f"page {number // 2}"} for number in range(20)]
    learned, held_out = split(DatasetSpec(path=str(write(*lines)), eval_fraction=0.2), 1)
    assert (len(learned), len(held_out)) == (16, 4)
    assert not {row.text for row in learned} & {row.text for row in held_out}


# ── the same share of each label ──


def labelled(*counts: int) -> list[dict[str, Any]]:
    return [pair(f"letter {label}/{number}", f"label {label}") for label, n in enumerate(counts) for number in range(n)]


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6).filter(lambda counts: sum(counts) >= 2 * len(counts)),
    st.floats(0.01, 0.9),
    st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_each_label_has_its_share_within_one_row_and_keeps_one_to_learn(
    counts: list[int], fraction: float, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in labelled(*counts)), encoding="utf-8")
        spec = DatasetSpec(path=str(path), eval_fraction=fraction, stratify="label")
        learned, held_out = split(spec, seed)
    kept = Counter(label_of(row) for row in held_out)
    share = held_out_target(sum(counts), fraction) / sum(counts)
    assert all(abs(kept[f"label {label}"] - count * share) <= 1 for label, count in enumerate(counts))
    assert {label_of(row) for row in learned} == {f"label {label}" for label in range(len(counts))}


def test_stratified_shares_differ_from_drawn_ones(write: Write) -> None:
    spec = DatasetSpec(path=str(write(*labelled(90, 10))), eval_fraction=0.2)

    def rare(seed: int, **changes: Any) -> int:
        return sum(label_of(row) == "label 1" for row in split(spec.model_copy(update=changes), seed)[1])

    assert {rare(seed, stratify="label") for seed in range(10)} == {2}
    assert len({rare(seed) for seed in range(10)}) > 1


def test_white_space_makes_no_other_label(write: Write) -> None:
    lines = [pair(f"q{number}", ("yes", " yes\n")[number % 2]) for number in range(10)]
    learned, held_out = split(DatasetSpec(path=str(write(*lines)), eval_fraction=0.3, stratify="label"), 1)
    assert {label_of(row) for row in learned + held_out} == {"yes"}


def test_the_label_of_a_row_that_ends_on_the_user_is_its_last_answer(write: Write) -> None:
    lines = [talk(f"q{number}", ("yes", "no")[number % 2], f"Thanks {number}!") for number in range(40)]
    _learned, held_out = split(DatasetSpec(path=str(write(*lines)), eval_fraction=0.2, stratify="label"), 1)
    assert Counter(map(label_of, held_out)) == {"yes": 4, "no": 4}


def test_a_question_with_two_labels_is_never_held_out(write: Write) -> None:
    lines = [pair(f"both {number // 2}", f"label {number % 2}") for number in range(80)]
    spec = DatasetSpec(path=str(write(*lines)), eval_fraction=0.3, stratify="label")
    assert split(spec, 1)[1] == []


def test_what_a_rare_label_cannot_give_a_frequent_one_does(write: Write) -> None:
    spec = DatasetSpec(path=str(write(*labelled(1, 1, 1, 9))), eval_fraction=0.5, stratify="label")
    assert Counter(map(label_of, split(spec, 1)[1])) == {"label 3": 5}


@pytest.mark.parametrize("line", [lambda n: pair(f"q{n}", f"answer {n}"), lambda n: {"text": f"page {n}"}])
def test_answers_that_are_no_labels_cannot_be_stratified_by(
    write: Write, line: Callable[[int], dict[str, Any]]
) -> None:
    spec = DatasetSpec(path=str(write(*map(line, range(60)))), stratify="label")
    with pytest.raises(UsageError, match="no labels") as caught:
        split(spec, 1)
    assert "stratify=none" in caught.value.hints[0]


def test_more_than_a_thousand_labels_are_none(write: Write) -> None:
    lines = [pair(f"q{number}", f"answer {number // 3}") for number in range(3 * (MAX_LABELS + 1))]
    with pytest.raises(UsageError, match="no labels"):
        split(DatasetSpec(path=str(write(*lines)), stratify="label"), 1)


# ── files beside the data ──


def test_what_a_held_out_file_asks_is_not_learned_whatever_the_answer(write: Write) -> None:
    held = write(pair("q3", "another answer"), name="held.jsonl")
    learned, held_out = split(
        DatasetSpec(path=str(write(*[pair(f"q{n}", "yes") for n in range(10)])), eval_path=str(held)), 1
    )
    assert prompts(held_out) == {"q3"}
    assert prompts(learned) == {f"q{number}" for number in range(10) if number != 3}


@pytest.mark.parametrize("own_file", [False, True])
def test_gold_rows_are_neither_learned_nor_held_out(write: Write, own_file: bool) -> None:
    lines = [pair(f"q{number}", "yes") for number in range(60)]
    gold = write(*lines[10:30], pair("new", "yes"), name="gold.jsonl")
    held = str(write(*lines[25:35], name="held.jsonl")) if own_file else ""
    spec = DatasetSpec(path=str(write(*lines)), gold_path=str(gold), eval_path=held, eval_fraction=0.5)
    learned, held_out = split(spec, 1)
    golden = prompts(list(read_gold(spec)))
    assert len(golden) == 21
    assert not golden & (prompts(learned) | prompts(held_out))
    assert (len(learned), len(held_out)) == ((35, 5) if own_file else (20, 20))


def test_without_a_gold_file_there_are_no_gold_rows(write: Write) -> None:
    assert list(read_gold(DatasetSpec(path=str(write(*labelled(3)))))) == []


@pytest.mark.parametrize("own_file", [False, True])
@pytest.mark.parametrize("stratify", ["none", "label"])
def test_the_report_counts_what_split_and_mix_make_of_all_files(write: Write, own_file: bool, stratify: str) -> None:
    lines = [pair(f"q{number // (1 + number % 3)}", f"label {number % 4}") for number in range(120)]
    spec = DatasetSpec(
        path=str(write(*lines)),
        gold_path=str(write(*lines[10:30], name="gold.jsonl")),
        eval_path=str(write(*lines[25:40], name="held.jsonl")) if own_file else "",
        mix_path=str(write(*lines[:50], *good(90), name="general.jsonl")),
        mix_ratio=0.2,
        eval_fraction=0.3,
        stratify=stratify,
        max_rows=100,
    )
    learned, held_out = split(spec, 1)
    kept = {side_key(row) for row in (*held_out, *read_gold(spec))}
    mixed = draw(spec, len(learned), kept, 1)
    report = scan(spec)
    assert (report.rows, report.mix_rows) == (len(learned) + len(mixed), len(mixed))
    assert (report.eval_rows, report.gold_rows) == (len(held_out), 20)
    assert mixed
    assert held_out
