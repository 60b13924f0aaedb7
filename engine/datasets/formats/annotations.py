"""What annotation tools export, as the answer that a model is to give: a label, a text, or a JSON list of regions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Skipped, Unusable
from engine.datasets.faults import TOO_DEEP


def answer_of(parts: Mapping[str, Any]) -> str:
    """One answer as it is; several, by the name of the question, as a JSON object. Raises `Skipped` if there is none.

    Lists and objects (regions) are written as JSON, so that they can be read back from what a model says.
    """
    if not parts:
        raise Skipped("not annotated")
    value = next(iter(parts.values())) if len(parts) == 1 else dict(parts)
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise Unusable(TOO_DEEP, "an annotation") from None


def regions_of(spans: list[Any], text: str) -> list[dict[str, str]]:
    """Labelled spans of a text as `[{"text": …, "label": …}, …]`, in the order of the text.

    A span has `start` and `end` in characters, its own `text` or none, and `label` or several `labels`.
    """
    found = [span for span in spans if isinstance(span, dict)]
    found.sort(key=lambda span: _number(span.get("start")))
    covered = [(_covered(span, text), label) for span in found for label in _labels(span)]
    return [{"text": words, "label": label} for words, label in covered if words]


def _labels(span: Mapping[str, Any]) -> list[str]:
    for key in ("labels", "hypertextlabels", "label"):
        value = span.get(key)
        if isinstance(value, list):
            return [label for label in value if isinstance(label, str)]
        if isinstance(value, str):
            return [value]
    return []


def _covered(span: Mapping[str, Any], text: str) -> str:
    own = span.get("text")
    return own if isinstance(own, str) else text[_number(span.get("start")) : _number(span.get("end"))]


def _number(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
