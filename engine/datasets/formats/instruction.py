"""Rows of Alpaca's and Dolly's form: `{"instruction": …, "input": …, "output": …}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Message, Row, Unusable
from engine.datasets.faults import WRONG_TYPE
from engine.datasets.formats.fields import (
    conversation,
    first_key,
    json_type,
    list_at,
    optional_text,
    paragraphs,
    text_at,
)


def _answer_key(row: Mapping[str, Any]) -> str:
    return first_key(row, "output", "response")


def _matches(row: Mapping[str, Any]) -> bool:
    return "instruction" in row and _answer_key(row) in row


def _read(row: Mapping[str, Any], line: int) -> Row:
    question = paragraphs(text_at(row, "instruction"), optional_text(row, "input", "context"))
    made = conversation(line, question, text_at(row, _answer_key(row)), optional_text(row, "system", "system_prompt"))
    if row.get("history") is not None:
        made.messages[-2:-2] = _history(row)  # behind the system message, before the question
    return made


def _history(row: Mapping[str, Any]) -> list[Message]:
    messages: list[Message] = []
    for pair in list_at(row, "history"):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise Unusable(WRONG_TYPE, f"a part of 'history' is {json_type(pair)}, not a pair of texts")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return messages


FORMAT = Format(
    "instruction",
    "An instruction, an optional input below it, and the output; also system, and history as pairs of texts.",
    '{"instruction": "Translate to French.", "input": "Good morning", "output": "Bonjour"}',
    _matches,
    _read,
)
