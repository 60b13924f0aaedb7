"""When two rows are the same, and the set that remembers them."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from datafiles import CHAT, write
from hypothesis import given
from hypothesis import strategies as st

from engine.datasets import seen
from engine.datasets.base import Row
from engine.datasets.identity import answer_index, earlier_prompts, fingerprint, prompt_fingerprint
from engine.datasets.rows import read_rows
from engine.datasets.seen import Seen


def chat(*turns: tuple[str, str], line: int = 1, **more: Any) -> Row:
    return Row(line, [{"role": role, "content": content} for role, content in turns], **more)


ASKED = chat(("user", "Hi"), ("assistant", "Hello"))


def test_the_same_row_is_the_same_in_every_format(tmp_path: Path) -> None:
    rows = [
        {"messages": CHAT},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there!"}]},
        {"instruction": "Hi", "output": "Hello there!"},
        {"prompt": "Hi", "completion": "Hello there!"},
        {"question": "Hi", "answer": "Hello there!"},
    ]
    read = [next(read_rows(write(tmp_path / f"{n}.jsonl", row))) for n, row in enumerate(rows)]
    assert len({fingerprint(each) for each in read}) == 1
    assert len({prompt_fingerprint(each) for each in read}) == 1


def test_where_a_row_stands_and_the_order_of_keys_do_not_matter() -> None:
    turned = Row(9, [{"content": "Hi", "role": "user"}, {"content": "Hello", "role": "assistant"}])
    assert fingerprint(turned) == fingerprint(ASKED)


@pytest.mark.parametrize(
    "other",
    [
        chat(("user", "Hi"), ("assistant", "Hello!")),
        chat(("user", "Hi!"), ("assistant", "Hello")),
        chat(("system", "Hi"), ("assistant", "Hello")),
        chat(("user", "H"), ("assistant", "iHello")),
        chat(("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")),
        chat(("user", "Hi"), ("assistant", "Hello"), tools=[{"name": "f"}]),
        Row(1, [{"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello", "reasoning_content": "They greet."}]),
        Row(1, [], "Hi"),
    ],
)  # fmt: skip
def test_whatever_is_learned_or_asked_makes_a_difference(other: Row) -> None:
    assert fingerprint(other) != fingerprint(ASKED)


def test_the_prompt_is_everything_before_the_last_answer() -> None:
    longer = chat(("user", "Hi"), ("assistant", "Hello"), ("user", "And?"), ("assistant", "Well"))
    other = chat(("user", "Hi"), ("assistant", "Hello"), ("user", "And?"), ("assistant", "So what"))
    assert prompt_fingerprint(longer) == prompt_fingerprint(other)
    assert prompt_fingerprint(longer) != prompt_fingerprint(ASKED)
    assert prompt_fingerprint(ASKED) == prompt_fingerprint(chat(("user", "Hi"), ("assistant", "No"), ("user", "Why")))


@pytest.mark.parametrize(
    "row", [Row(1, [], "text"), chat(("assistant", "a")), chat(("system", "s"), ("assistant", "a"))]
)
def test_where_nobody_asks_there_is_no_prompt(row: Row) -> None:
    assert prompt_fingerprint(row) == 0


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=3)), min_size=1, max_size=8),
    st.sampled_from([None, [{"name": "f"}]]),
)
def test_earlier_prompts_are_those_of_the_rows_that_end_there(turns: list[tuple[str, str]], tools: Any) -> None:
    row = chat(*turns, tools=tools)
    ends = [at for at, (role, _) in enumerate(turns) if role == "assistant"][:-1]
    shorter = [prompt_fingerprint(row._replace(messages=row.messages[: at + 1])) for at in ends]
    assert earlier_prompts(row) == [prompt for prompt in shorter if prompt]


def test_a_value_that_json_does_not_have_in_the_answer_leaves_the_prompt_as_it_is() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"on": date(2024, 1, 2)}}}
    called = Row(1, [ASKED.messages[0], {"role": "assistant", "content": "", "tool_calls": [call]}])
    assert prompt_fingerprint(called) == prompt_fingerprint(ASKED)


def test_where_the_last_answer_stands() -> None:
    assert answer_index(ASKED.messages) == 1
    assert answer_index(chat(("user", "a"), ("assistant", "b"), ("user", "c")).messages) == 1
    assert answer_index(chat(("user", "a")).messages) == 1


@pytest.mark.parametrize("value", [10**30, date(2024, 1, 2), {1: "a"}, b"\xff"])
def test_values_that_json_does_not_have_are_told_apart_too(value: Any) -> None:
    def row(arguments: Any) -> Row:
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        return Row(1, [ASKED.messages[0], {"role": "assistant", "content": "", "tool_calls": [call]}])

    assert fingerprint(row({"b": value, "a": 1})) == fingerprint(row({"a": 1, "b": value}))
    assert fingerprint(row({"b": value, "a": 1})) != fingerprint(row({"b": value, "a": 2}))


@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 50), max_size=40), max_size=20))
def test_what_was_seen_is_known(blocks: list[list[int]]) -> None:
    keys, plain = Seen(), set[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen, "_RECENT", 16)
        for block in blocks:
            assert keys.known(block) == [key in plain for key in block]
            keys.extend(block)
            plain.update(block)
            assert len(keys) >= len(plain)


def test_what_is_behind_the_limit_is_not_remembered() -> None:
    keys = Seen(limit=3)
    keys.extend([1, 2])
    keys.extend([3, 4])
    assert keys.known([1, 2, 3, 4]) == [True, True, True, False]
