"""Rows of ShareGPT's form: `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", …}]}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Message, Row, Unusable
from engine.datasets.faults import BAD_CALL
from engine.datasets.formats.calls import call_of, tools_at
from engine.datasets.formats.fields import from_json, has_turns, list_at, object_in, optional_text, text_at
from engine.datasets.formats.preference import is_preference
from engine.datasets.formats.turns import refuse_untrained, role_of

_CALLS = ("function_call", "tool_call")
"""Who speaks in a turn whose value is a call (or a list of calls) as JSON text."""


def _key(row: Mapping[str, Any]) -> str:
    return "messages" if "conversations" not in row and "messages" in row else "conversations"


def is_conversation(row: Mapping[str, Any]) -> bool:
    """True if turns of this format stand in the row."""
    return has_turns(row, _key(row), "from", "value")


def _matches(row: Mapping[str, Any]) -> bool:
    return is_conversation(row) and not is_preference(row)


def _read(row: Mapping[str, Any], line: int) -> Row:
    messages: list[Message] = [read_turn(turn) for turn in list_at(row, _key(row))]
    if system := optional_text(row, "system"):
        messages.insert(0, {"role": "system", "content": system})
    return Row(line, messages, "", tools_at(row))


def read_turn(value: object) -> Message:
    """A turn with `from` and `value` as a message. Raises `Unusable`."""
    turn = object_in(value, "a turn")
    speaker, said = text_at(turn, "from"), text_at(turn, "value")
    if speaker in _CALLS:
        return {"role": "assistant", "content": "", "tool_calls": _calls(said)}
    role = role_of(speaker)
    if role == "assistant" and len(turn) > 2:
        refuse_untrained(turn)
    return {"role": role, "content": said}


def _calls(value: str) -> list[dict[str, Any]]:
    read = from_json(value, "the value of a call", BAD_CALL)
    calls = read if isinstance(read, list) else [read]
    if not calls:
        raise Unusable(BAD_CALL, "an empty list of calls")
    return [call_of(call) for call in calls]


FORMAT = Format(
    "sharegpt",
    "A list of turns with from (human, gpt, system, function_call, observation) and value, under conversations.",
    '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}',
    _matches,
    _read,
)
