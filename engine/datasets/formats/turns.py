"""Turns with role and content, as OpenAI writes them, in the one form that chat templates take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from engine.datasets.base import Message, Unusable
from engine.datasets.faults import NO_KEYS, NOT_TEXT, UNTRAINED_TURN, WRONG_TYPE
from engine.datasets.formats.calls import calls_in
from engine.datasets.formats.fields import json_type, object_in, optional_text, text_at

ROLE_NAMES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
"""What data sets call the roles; any other name is kept, and refused with the rest that is checked."""

_PLAIN_ROLES = ("user", "assistant", "system")
_TEXT_PARTS = ("text", "input_text", "output_text")
_OTHER_PARTS = ("image", "audio", "video", "file", "document")


def role_of(name: str) -> str:
    """The role that a name in a data set means; the name itself if it is not known."""
    return ROLE_NAMES.get(name) or ROLE_NAMES.get(name.lower(), name)


def read_turns(turns: Sequence[Any]) -> list[Message]:
    """Turns as messages. A plain one (role and content, nothing else) is taken as it is. Raises `Unusable`."""
    messages: list[Message] = []
    for turn in turns:
        if (
            type(turn) is dict
            and len(turn) == 2
            and turn.get("role") in _PLAIN_ROLES
            and type(turn.get("content")) is str
        ):
            messages.append(cast("Message", turn))
        else:
            messages.append(_message(object_in(turn, "a turn")))
    return messages


def _message(turn: Mapping[str, Any]) -> Message:
    role = role_of(text_at(turn, "role"))
    calls = calls_in(turn) if role == "assistant" else []
    message: Message = {"role": role, "content": _content(turn, optional=bool(calls))}
    if role == "assistant":
        refuse_untrained(turn)
        thought = optional_text(turn, "reasoning_content", "reasoning", "thinking")
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
    elif role == "tool":
        if name := optional_text(turn, "name"):
            message["name"] = name
        if call := optional_text(turn, "tool_call_id"):
            message["tool_call_id"] = call
    return message


def refuse_untrained(turn: Mapping[str, Any]) -> None:
    """Raise `Unusable` for an answer that the data say is not to be learned, as OpenAI's `"weight": 0` does."""
    if turn.get("weight") == 0 or turn.get("train") is False:
        raise Unusable(UNTRAINED_TURN)


def _content(turn: Mapping[str, Any], optional: bool) -> str:
    content = turn.get("content")
    if isinstance(content, str):
        return content
    if content is None and optional:
        return ""
    if isinstance(content, list):
        return "\n".join(_part(part) for part in content)
    if "content" not in turn:
        raise Unusable(NO_KEYS, "no key 'content'")
    raise Unusable(WRONG_TYPE, f"'content' is {json_type(content)}")


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    each = object_in(part, "a part of 'content'")
    kind = each.get("type", "text")
    if kind in _TEXT_PARTS:
        return text_at(each, "text")
    if isinstance(kind, str) and any(other in kind for other in _OTHER_PARTS):
        raise Unusable(NOT_TEXT, f"a part of type {kind!r}")
    raise Unusable(WRONG_TYPE, f"a part of 'content' has the type {kind!r}")
