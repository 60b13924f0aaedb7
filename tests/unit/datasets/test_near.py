"""Near duplicates: what shares most of its runs of words is found, and nothing else; the estimate is honest."""

from __future__ import annotations

import random

import pytest

from engine.datasets.base import Row
from engine.datasets.near import SHARE, Sketches, Twin, runs, text_of

WORDS = [f"word{number}" for number in range(3000)]


def chat(question: str, answer: str = "an answer", system: str = "") -> Row:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    head = [{"role": "system", "content": system}] if system else []
    return Row(1, [*head, *messages])  # type: ignore[list-item]


def twins(*rows: Row) -> dict[int, Twin]:
    sketches = Sketches(len(rows))
    for number, row in enumerate(rows):
        sketches.add(number, row)
    return sketches.twins()


def words(count: int, seed: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def changed(text: list[str], places: int, seed: int = 0) -> list[str]:
    """The text with so many words replaced, close together: each run of five is changed or not."""
    begin = random.Random(seed).randrange(len(text) - places)
    return [*text[:begin], *[f"other{at}" for at in range(places)], *text[begin + places :]]


def jaccard(one: Row, other: Row) -> float:
    a, b = set(runs(text_of(one))), set(runs(text_of(other)))
    return len(a & b) / len(a | b)


def test_runs_are_five_words_in_small_letters_without_marks() -> None:
    assert runs("One two, three — four five. Six!") == ["one two three four five", "two three four five six"]


def test_a_text_of_few_words_is_one_run() -> None:
    assert runs("Hi there!") == ["hi there"]


def test_a_script_without_spaces_is_cut_into_characters() -> None:
    assert runs("我的订单没有到") == ["我 的 订 单 没", "的 订 单 没 有", "订 单 没 有 到"]


def test_a_row_with_one_word_changed_is_near_the_first_of_its_kind() -> None:
    text = words(100, seed=1)
    rows = [chat(" ".join(words(100, seed=2))), chat(" ".join(text)), chat(" ".join(changed(text, 1)))]
    found = twins(*rows)
    assert set(found) == {2}
    assert found[2].row == 1
    assert found[2].share >= SHARE


def test_rows_that_share_half_are_not_near() -> None:
    text = words(100, seed=1)
    assert twins(chat(" ".join(text)), chat(" ".join([*text[:50], *words(50, seed=2)]))) == {}


def test_a_shared_system_message_makes_no_twins() -> None:
    system = " ".join(words(300, seed=1))
    assert twins(*(chat(" ".join(words(30, seed)), system=system) for seed in range(2, 6))) == {}


def test_rows_without_a_word_are_like_none() -> None:
    assert twins(chat("!!!", "???"), chat("!!!", "???")) == {}


def test_raw_texts_are_compared_too() -> None:
    text = words(200, seed=1)
    assert set(twins(Row(1, [], " ".join(text)), Row(2, [], " ".join(changed(text, 2))))) == {1}


@pytest.mark.parametrize("places", [2, 6, 12])
def test_the_share_is_about_the_exact_one(places: int) -> None:
    text = words(300, seed=places)
    one, other = chat(" ".join(text)), chat(" ".join(changed(text, places)))
    assert twins(one, other)[1].share == pytest.approx(jaccard(one, other), abs=0.1)


def test_of_pairs_well_above_the_border_all_are_found_and_of_those_well_below_none() -> None:
    rows = []
    for seed in range(200):
        text = words(200, seed)
        rows += [chat(" ".join(text)), chat(" ".join(changed(text, 4 if seed % 2 else 60, seed)))]
    assert jaccard(rows[0], rows[1]) < 0.6
    assert jaccard(rows[2], rows[3]) > 0.9
    assert set(twins(*rows)) == {4 * pair + 3 for pair in range(100)}


def test_thousands_of_like_rows_are_all_found() -> None:
    text = words(60, seed=1)
    found = twins(*(chat(" ".join([*text, f"number{number}"])) for number in range(3000)))
    assert len(found) == 2999
    assert {twin.row for twin in found.values()} == {0}


def test_nothing_is_near_in_nothing() -> None:
    assert Sketches(0).twins() == {}
