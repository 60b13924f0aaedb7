"""What every data format turns into at the door: a row of messages or of text; and the check of its turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NotRequired

from typing_extensions import TypedDict  # pydantic takes the standard one only from Python 3.12 on

from engine.datasets.faults import (
    BAD_ROLE,
    EMPTY_ANSWER,
    EMPTY_TEXT,
    LATE_SYSTEM,
    LOST_TOOL,
    NO_ANSWER,
    NUL,
    SURROGATE,
    Fault,
    Skipped,
    Unusable,
)

ROLES = ("system", "user", "assistant", "tool")


class Message(TypedDict):
    """One turn of a chat, as chat templates take it."""

    role: str
    """system, user, assistant or tool."""
    content: str
    reasoning_content: NotRequired[str]
    """The thought before an assistant's answer, for templates that write it."""
    tool_calls: NotRequired[list[dict[str, Any]]]
    """The tools that an assistant's turn calls: `{"type": "function", "function": {"name": …, "arguments": {…}}}`."""
    name: NotRequired[str]
    """The tool that a tool's turn comes from."""
    tool_call_id: NotRequired[str]


class Row(NamedTuple):
    """One usable row: a conversation, or a raw text to continue. A tuple, because a scan makes millions of them."""

    line: int
    """Where it begins in its file, counted from 1; or the row's number, as its reader counts."""
    messages: list[Message]
    """Empty in a row of raw text."""
    text: str = ""
    """Raw text, all of which is learned (continued pretraining); empty in a conversation."""
    tools: list[dict[str, Any]] | None = None
    """The JSON schemas of the tools that the conversation may call."""


@dataclass(frozen=True)
class Format:
    """One way of writing a row."""

    name: str
    help: str
    example: str
    """One row, as it stands in a file."""
    matches: Callable[[Mapping[str, Any]], bool]
    """True if an object has the keys of this format."""
    read: Callable[[Mapping[str, Any], int], Row]
    """The object that begins at a line, as a row; roles and order not yet checked. Raises `Unusable` or `Skipped`."""
    detectable: bool = True
    """False if it is only taken when it is asked for by name."""


def check_row(row: Row) -> None:
    """Raise `Unusable` unless the row can be learned from."""
    if row.messages or not row.text:
        check_turns(row.messages)
        return
    check_text(row.text)
    if not row.text.strip():
        raise Unusable(EMPTY_TEXT)


def check_turns(messages: list[Message]) -> None:
    """Raise `Unusable` unless the turns can be learned from: known roles in a possible order, every answer filled.

    A conversation may end on the user as long as it has an answer before; what stands behind it teaches nothing.
    """
    previous = ""
    answered = False
    calling = False  # True behind an assistant's turn with tool calls, and behind the tools that answer it
    for message in messages:
        role, content = message["role"], message["content"]
        if "\0" in content or not content.isascii():
            check_text(content)
        if len(message) > 2:
            _check_extras(message)
        if role == "user":
            calling = False
        elif role == "assistant":
            calling = "tool_calls" in message
            if not calling and not content.strip():
                raise Unusable(EMPTY_ANSWER)
            answered = True
        elif role == "system":
            if previous:
                raise Unusable(LATE_SYSTEM)
        elif role == "tool":
            if not calling:
                raise Unusable(LOST_TOOL)
        else:
            raise Unusable(BAD_ROLE, f"role {role!r}")
        previous = role
    if not answered:
        raise Unusable(NO_ANSWER)


def _check_extras(message: Message) -> None:
    """The same of the parts of a turn that few rows have."""
    for text in (message.get("reasoning_content"), message.get("name"), message.get("tool_call_id")):
        if text:
            check_text(text)


def check_text(text: str) -> None:
    """Raise `Unusable` for a text that no tokenizer takes: with NUL characters or halves of characters in it."""
    if "\0" in text:
        raise Unusable(NUL)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable(SURROGATE, f"at character {error.start + 1}") from None


__all__ = [
    "ROLES",
    "Fault",
    "Format",
    "Message",
    "Row",
    "Skipped",
    "Unusable",
    "check_row",
    "check_text",
    "check_turns",
]
