"""Rows of ShareGPT's form: `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", …}]}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Message, has_turns, text_at, turns_at

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bing": "assistant"}
"""What ShareGPT's exports call the roles; any other name is kept, and checked with the rest."""


def _matches(row: Mapping[str, Any]) -> bool:
    return has_turns(row, "conversations", "from", "value")


def _to_messages(row: Mapping[str, Any]) -> list[Message]:
    system = text_at(row, "system", default="")
    turns = [(text_at(turn, "from"), text_at(turn, "value")) for turn in turns_at(row, "conversations")]
    messages: list[Message] = [{"role": _ROLES.get(role, role), "content": content} for role, content in turns]
    return [{"role": "system", "content": system}, *messages] if system else messages


FORMAT = Format(
    "sharegpt",
    "A list of turns with from and value, under conversations.",
    '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}',
    _matches,
    _to_messages,
)
