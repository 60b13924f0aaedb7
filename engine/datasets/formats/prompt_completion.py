"""Rows of TRL's form: `{"prompt": …, "completion": …}`, both as text or as lists of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Message, Row
from engine.datasets.formats.calls import tools_at
from engine.datasets.formats.fields import optional_text, text_at
from engine.datasets.formats.turns import read_turns


def _matches(row: Mapping[str, Any]) -> bool:
    return "prompt" in row and "completion" in row


def turns_or_text(row: Mapping[str, Any], key: str, role: str) -> list[Message]:
    """The messages under a key; a text there is one message of that role. Raises `Unusable`."""
    value = row.get(key)
    return read_turns(value) if isinstance(value, list) else [{"role": role, "content": text_at(row, key)}]


def _read(row: Mapping[str, Any], line: int) -> Row:
    messages = [*turns_or_text(row, "prompt", "user"), *turns_or_text(row, "completion", "assistant")]
    if system := optional_text(row, "system", "system_prompt"):
        messages.insert(0, {"role": "system", "content": system})
    return Row(line, messages, "", tools_at(row))


FORMAT = Format(
    "prompt_completion",
    "A prompt and its completion, each a text or a list of messages.",
    '{"prompt": "The capital of France?", "completion": "Paris."}',
    _matches,
    _read,
)
