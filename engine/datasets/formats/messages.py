"""Rows of OpenAI's chat form: `{"messages": [{"role": …, "content": …}, …], "tools": […]}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Row
from engine.datasets.formats.calls import tools_at
from engine.datasets.formats.fields import has_turns, list_at
from engine.datasets.formats.preference import is_preference
from engine.datasets.formats.turns import read_turns


def _key(row: Mapping[str, Any]) -> str:
    return "conversations" if "messages" not in row and "conversations" in row else "messages"


def is_conversation(row: Mapping[str, Any]) -> bool:
    """True if turns of this format stand in the row."""
    return has_turns(row, _key(row), "role")


def _matches(row: Mapping[str, Any]) -> bool:
    return is_conversation(row) and not is_preference(row)


def _read(row: Mapping[str, Any], line: int) -> Row:
    turns = row.get("messages")
    if type(turns) is not list:
        turns = list_at(row, _key(row))
    tools = tools_at(row) if "tools" in row or "functions" in row else None
    return Row(line, read_turns(turns), "", tools)


FORMAT = Format(
    "messages",
    "A list of turns with role and content, under messages or conversations; with tool calls, thoughts and tools.",
    '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}',
    _matches,
    _read,
)
