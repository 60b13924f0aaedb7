"""Rows for preference training (DPO, ORPO, KTO): recognised and named, not learned from as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from engine.datasets.base import Format, Unusable
from engine.datasets.faults import PREFERENCE

_MARKS = ("label", "kto_tag")
_ANSWERED = ("completion", "messages", "conversations")


def is_marked(row: Mapping[str, Any]) -> bool:
    """True for KTO's rows: a conversation, and whether its answer is good."""
    return _mark(row) in ("true", "false") and any(key in row for key in _ANSWERED)


def is_good(row: Mapping[str, Any]) -> bool:
    """What the mark of a marked row says."""
    return _mark(row) == "true"


def _mark(row: Mapping[str, Any]) -> str:
    """`true`, `false` or neither; CSV writes it as a text."""
    marks = (row[key] for key in _MARKS if isinstance(row.get(key), (bool, str)))
    return next((str(mark).lower() for mark in marks), "")


def is_preference(row: Mapping[str, Any]) -> bool:
    """True for a row that says which answer is the better one, or whether one is good: other formats are none."""
    return ("chosen" in row and "rejected" in row) or is_marked(row)


def _read(row: Mapping[str, Any], line: int) -> NoReturn:  # noqa: ARG001 – a format's reader has both
    raise Unusable(PREFERENCE)


FORMAT = Format(
    "preference",
    "A chosen and a rejected answer, for DPO or ORPO: not learned as such; --format chosen learns the chosen one.",
    '{"prompt": "The capital of France?", "chosen": "Paris.", "rejected": "Rome."}',
    is_preference,
    _read,
)
