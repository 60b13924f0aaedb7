"""Rows of raw text, all of which is learned (continued pretraining): `{"text": …}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Row, Unusable
from engine.datasets.faults import EMPTY_TEXT
from engine.datasets.formats.fields import first_key, text_at

_LABELS = frozenset({"label", "labels", "label_text", "category", "class", "sentiment", "intent", "target", "summary"})
"""Beside a text these are answers: such rows are not raw text, and which column is the answer is not ours to guess."""


def _matches(row: Mapping[str, Any]) -> bool:
    key = _key(row)
    return isinstance(row.get(key), str) and _LABELS.isdisjoint(row) and not (key == "content" and "role" in row)


def _key(row: Mapping[str, Any]) -> str:
    return first_key(row, "text", "content")


def _read(row: Mapping[str, Any], line: int) -> Row:
    text = text_at(row, _key(row))
    if not text.strip():
        raise Unusable(EMPTY_TEXT)
    return Row(line, [], text)


FORMAT = Format(
    "text",
    "A raw text, all of which is learned: to continue pretraining on a domain.",
    '{"text": "The Louvre was a fortress before it was a palace, and a palace before it was a museum."}',
    _matches,
    _read,
)
