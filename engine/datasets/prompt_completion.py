"""Rows of one question and one answer: `{"prompt": …, "completion": …}` or `{"question": …, "answer": …}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Message, text_at

_PAIRS = (("prompt", "completion"), ("question", "answer"))


def _pair(row: Mapping[str, Any]) -> tuple[str, str]:
    return next((pair for pair in _PAIRS if all(key in row for key in pair)), _PAIRS[0])


def _matches(row: Mapping[str, Any]) -> bool:
    return all(key in row for key in _pair(row))


def _to_messages(row: Mapping[str, Any]) -> list[Message]:
    question, answer = _pair(row)
    return [
        {"role": "user", "content": text_at(row, question)},
        {"role": "assistant", "content": text_at(row, answer)},
    ]


FORMAT = Format(
    "prompt_completion",
    "A prompt and its completion, or a question and its answer.",
    '{"prompt": "The capital of France?", "completion": "Paris."}',
    _matches,
    _to_messages,
)
