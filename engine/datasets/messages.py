"""Rows of OpenAI's chat form: `{"messages": [{"role": …, "content": …}, …]}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Message, has_turns, text_at, turns_at


def _key(row: Mapping[str, Any]) -> str:
    return "conversations" if "conversations" in row and "messages" not in row else "messages"


def _matches(row: Mapping[str, Any]) -> bool:
    return has_turns(row, _key(row), "role", "content")


def _to_messages(row: Mapping[str, Any]) -> list[Message]:
    text = [(text_at(turn, "role"), text_at(turn, "content")) for turn in turns_at(row, _key(row))]
    return [{"role": role, "content": content} for role, content in text]


FORMAT = Format(
    "messages",
    "A list of turns with role and content, under messages or conversations.",
    '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}',
    _matches,
    _to_messages,
)
