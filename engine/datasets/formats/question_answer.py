"""Rows of one question and one answer under many names: question/answer, query/response, input/output, SQuAD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Row, Unusable
from engine.datasets.faults import EMPTY_ANSWER, WRONG_TYPE
from engine.datasets.formats.fields import conversation, json_type, optional_text, paragraphs, text_at

_PAIRS = (
    ("question", "answer"),
    ("question", "answers"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("input", "output"),
    ("user", "assistant"),
)


def _pair(row: Mapping[str, Any]) -> tuple[str, str]:
    return next((pair for pair in _PAIRS if pair[0] in row and pair[1] in row), _PAIRS[0])


def _matches(row: Mapping[str, Any]) -> bool:
    question, answer = _pair(row)
    return question in row and answer in row


def _read(row: Mapping[str, Any], line: int) -> Row:
    question, answer = _pair(row)
    asked = paragraphs(optional_text(row, "context"), text_at(row, question))
    told = _first_answer(row) if answer == "answers" else text_at(row, answer)
    return conversation(line, asked, told, optional_text(row, "system", "system_prompt"))


def _first_answer(row: Mapping[str, Any]) -> str:
    """The first of several people's answers, as SQuAD has them: `{"text": ["…", "…"], "answer_start": [3, 3]}`."""
    answers = row["answers"]
    texts = answers.get("text") if isinstance(answers, dict) else answers
    if isinstance(texts, str):
        return texts
    if not isinstance(texts, list):
        raise Unusable(WRONG_TYPE, f"'answers' is {json_type(answers)} without a list of texts")
    if not texts:
        raise Unusable(EMPTY_ANSWER, "'answers' is an empty list")
    first = texts[0]
    if isinstance(first, dict):
        return text_at(first, "text")
    if not isinstance(first, str):
        raise Unusable(WRONG_TYPE, f"the first of 'answers' is {json_type(first)}")
    return first


FORMAT = Format(
    "question_answer",
    "A question and its answer (or query and response, prompt and response, input and output), with context: SQuAD.",
    '{"question": "Where is the Louvre?", "answer": "In Paris."}',
    _matches,
    _read,
)
