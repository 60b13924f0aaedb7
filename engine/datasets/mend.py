"""Texts put right: what was decoded wrongly decoded anew, stray characters taken out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from engine.datasets.base import Message, Row
from engine.datasets.findings.encoding import repaired

STRAY = "NUL, byte order mark or half of a character taken out"
MOJIBAKE = "decoded anew (fÃ¼r → für)"

_STRAY = re.compile("[\0\ufeff\ud800-\udfff]")


def scrubbed(text: str) -> str:
    """The text without NULs, byte order marks and halves of characters."""
    return _STRAY.sub("", text)


def mended(text: str) -> str:
    """The text scrubbed and decoded as it was meant. What is mended needs no second mending."""
    while not text.isascii() or "\0" in text:
        better = repaired(scrubbed(text))
        if better == text:
            break
        text = better
    return text


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with each of its texts changed; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: map_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [map_texts(inner, change) for inner in value]
    return value


def mended_row(row: Row) -> tuple[Row, str]:
    """The row with all that is learned or asked mended, and what was done; nothing, if it was fine."""
    better = _changed_row(row, mended)
    if better == row:
        return row, ""
    return better, STRAY if better == _changed_row(row, scrubbed) else MOJIBAKE


def _changed_row(row: Row, change: Callable[[str], str]) -> Row:
    return row._replace(messages=[_changed(message, change) for message in row.messages], text=change(row.text))


def _changed(message: Message, change: Callable[[str], str]) -> Message:
    said = ("content", "reasoning_content", "tool_calls")
    return cast("Message", {key: map_texts(value, change) if key in said else value for key, value in message.items()})
