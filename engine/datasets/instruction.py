"""Rows of Alpaca's form: `{"instruction": …, "input": …, "output": …}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Message, text_at


def _matches(row: Mapping[str, Any]) -> bool:
    return "instruction" in row and "output" in row


def _to_messages(row: Mapping[str, Any]) -> list[Message]:
    instruction, given = text_at(row, "instruction"), text_at(row, "input", default="")
    system = text_at(row, "system", default="")
    question = f"{instruction}\n\n{given}" if given.strip() else instruction
    messages: list[Message] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": text_at(row, "output")},
    ]
    return [{"role": "system", "content": system}, *messages] if system else messages


FORMAT = Format(
    "instruction",
    "An instruction, an optional input below it, and the output.",
    '{"instruction": "Translate to French.", "input": "Good morning", "output": "Bonjour"}',
    _matches,
    _to_messages,
)
