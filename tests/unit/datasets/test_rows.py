"""Rows: reading stops at the first fault with its place; what cannot be learned from is not let through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.datasets.base import Message, Row, Unusable, check_row
from engine.datasets.rows import read_rows
from engine.errors import DataError

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def write(path: Path, *lines: str | bytes | dict[str, Any]) -> Path:
    made = [
        line if isinstance(line, bytes) else line.encode() if isinstance(line, str) else json.dumps(line).encode()
        for line in lines
    ]
    path.write_bytes(b"".join(line + b"\n" for line in made))
    return path


FAULTS: list[tuple[str, Any, str]] = [
    ("torn", '{"messages": [{"role": "user", "con', "is not JSON: Unterminated string starting at character 32"),
    ("latin-1", '{"prompt": "grün"}'.encode("latin-1"), "is not UTF-8: byte 0xfc at 15"),
    ("nul", b'{"prompt": "a\x00b"}', "contains NUL"),
    ("utf-16 inside", '{"a": 1}'.encode("utf-16-le"), "contains NUL"),
    ("escaped nul", r'{"messages": [{"role": "user", "content": "a\u0000"}]}', "contains NUL"),
    ("deep", b"[" * 100_000, "nested too deeply"),
    ("huge number", b'{"a": ' + b"9" * 10_000 + b"}", "is not JSON"),
    ("a list", "[1]", "is not a JSON object: it is a list"),
    ("a number", "7", "is not a JSON object: it is a number"),
    ("null", "null", "is not a JSON object: it is null"),
    (
        "lone surrogate",
        r'{"messages": [{"role": "assistant", "content": "\ud83d"}]}',
        "half of a character: at character 1",
    ),
    ("another format", {"prompt": "a", "completion": "b"}, "it is written as prompt_completion, the file as messages"),
    ("hostile role", {"messages": [{"role": "\x1b[2J", "content": "a"}]}, "unknown role: role '\\x1b[2J'"),
]


@pytest.mark.parametrize(("line", "said"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_reading_stops_at_a_fault_with_its_place(tmp_path: Path, line: Any, said: str) -> None:
    path = write(tmp_path / "data.jsonl", *[{"messages": CHAT}] * 60, line)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert caught.value.detail.startswith("data.jsonl:61: ")
    assert said in caught.value.detail
    assert caught.value.hints


def test_json_that_only_python_takes_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", '{"score": NaN, "big": 123456789012345678901234567890, "text": "a"}')
    assert [row.text for row in read_rows(path)] == ["a"]


def test_a_bom_blank_lines_windows_ends_and_a_missing_last_end_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    row = json.dumps({"messages": CHAT}).encode()
    path.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n  \n" + row + b"\r\n" + row)
    assert [(read.line, read.messages) for read in read_rows(path)] == [(1, CHAT), (4, CHAT), (5, CHAT)]


# ── what may be learned from ──


def turns(*said: str) -> list[Message]:
    """`u` user, `a` assistant, `c` a call without words, `s` system, `t` tool; an upper-case letter has no text."""
    names = {"u": "user", "a": "assistant", "c": "assistant", "s": "system", "t": "tool"}
    made: list[Message] = []
    for mark in said:
        message: Message = {"role": names[mark.lower()], "content": "" if mark.isupper() or mark == "c" else "text"}
        if mark == "c":
            message["tool_calls"] = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
        made.append(message)
    return made


@pytest.mark.parametrize("order", ["ua", "sua", "uaua", "uau", "a", "ucta", "ucttctta", "uc", "Ua", "uac"])
def test_an_order_of_turns_that_is_fine(order: str) -> None:
    check_row(Row(1, turns(*order)))


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("", "no assistant turn"),
        ("u", "no assistant turn"),
        ("su", "no assistant turn"),
        ("uA", "empty answer"),
        ("uAua", "empty answer"),
        ("usa", "system message after"),
        ("ssua", "system message after"),
        ("uat", "nothing called for"),
        ("tua", "nothing called for"),
        ("ucuta", "nothing called for"),
        ("ucata", "nothing called for"),
    ],
)
def test_an_order_of_turns_that_is_refused(order: str, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        check_row(Row(1, turns(*order)))


@pytest.mark.parametrize(("text", "said"), [(" \n", "empty text"), ("a\0", "NUL"), ("\udc00", "half of a character")])
def test_a_raw_text_that_is_refused(text: str, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        check_row(Row(1, [], text))
