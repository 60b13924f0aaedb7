"""Exports of Label Studio: JSON (whole tasks with their annotations) and JSON-MIN or CSV (one flat row a task).

Shapes: the task format of Label Studio's guide and the export code of label-studio-converter. Choices, text areas,
ratings, numbers, taxonomies and labelled spans of text become the answer; labels on images, sound and video do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Row, Skipped, Unusable
from engine.datasets.faults import NO_KEYS, NOT_TEXT
from engine.datasets.formats.annotations import answer_of, regions_of
from engine.datasets.formats.fields import conversation, first_key, from_json, list_at, object_in

_TEXT_KEYS = ("text", "question", "prompt", "dialog", "dialogue", "body", "content", "html")
"""Where tasks keep the text that is annotated; a task with one text only needs none of these names."""
_OWN_KEYS = frozenset(
    {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "history"}
)
_SPANS = ("labels", "hypertextlabels", "paragraphlabels")


def _matches(row: Mapping[str, Any]) -> bool:
    if isinstance(row.get("data"), dict):
        return isinstance(row.get("annotations", row.get("completions")), list)
    return "annotator" in row and ("annotation_id" in row or "lead_time" in row)


def _read(row: Mapping[str, Any], line: int) -> Row:
    if "annotator" in row and "data" not in row:
        return _read_flat(row, line)
    data = object_in(row.get("data"), "'data'")
    text = str(data[_text_key(data)])
    results = list_at(_annotation(row), "result")
    parts: dict[str, Any] = {}
    for result in results:
        each = object_in(result, "a part of 'result'")
        _add(parts, str(each.get("from_name", "answer")), each)
    return conversation(line, text, answer_of({name: _told(value, text) for name, value in parts.items()}))


def _annotation(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The annotation to learn: the ground truth if one is marked, else the first that was not cancelled."""
    key = first_key(row, "annotations", "completions")
    given = [object_in(each, "an annotation") for each in list_at(row, key)]
    kept = [each for each in given if not each.get("was_cancelled") and each.get("result")]
    if not kept:
        cancelled = any(each.get("was_cancelled") for each in given)
        raise Skipped("cancelled in Label Studio" if cancelled else "not annotated")
    return next((each for each in kept if each.get("ground_truth")), kept[0])


def _text_key(data: Mapping[str, Any]) -> str:
    """Where the text of a task is. Raises `Unusable` if there is none, or several under names of its own."""
    texts = [key for key, value in data.items() if isinstance(value, str)]
    named = [key for key in _TEXT_KEYS if key in texts]
    if named or len(texts) == 1:
        return (named or texts)[0]
    raise Unusable(NO_KEYS, f"which of {', '.join(map(repr, list(data)[:8])) or 'no keys'} in 'data' is the text?")


def _add(parts: dict[str, Any], name: str, result: Mapping[str, Any]) -> None:
    """Add one result (a choice, a text, a labelled span) to the answers by the control that it comes from."""
    kind = result.get("type")
    value = object_in(result.get("value"), "'value'")
    if kind in _SPANS and "start" in value and isinstance(value.get(str(kind)), list) and "channel" not in value:
        parts.setdefault(name, []).append({**value, "labels": value[str(kind)]})
    elif kind in ("choices", "taxonomy", "textarea", "rating", "number", "pairwise", "datetime"):
        parts[name] = _joined(kind, value)
    elif kind != "relation":
        raise Unusable(NOT_TEXT, f"a result of the type {kind!r}")


def _joined(kind: str, value: Mapping[str, Any]) -> str:
    found = value.get({"textarea": "text", "pairwise": "selected"}.get(kind, kind), "")
    items = found if isinstance(found, list) else [found]
    if kind == "taxonomy":
        return ", ".join(" / ".join(map(str, path)) if isinstance(path, list) else str(path) for path in items)
    return ("\n" if kind == "textarea" else ", ").join(map(str, items))


def _told(value: Any, text: str) -> Any:
    return regions_of(value, text) if isinstance(value, list) else value


def _read_flat(row: Mapping[str, Any], line: int) -> Row:
    """JSON-MIN: the task's data, its id, then one key for each control, then who annotated it and when."""
    keys = list(row)
    names = keys[keys.index("id") + 1 : keys.index("annotator")] if "id" in keys else []  # empty: a CSV, sorted by name
    data = {key: value for key, value in row.items() if key not in _OWN_KEYS and key not in names}
    text_key = _text_key(data)
    text = str(data.pop(text_key))
    names = names or list(data)
    parts = {name: _flat_value(row[name], text) for name in names if row[name] not in (None, "", [])}
    return conversation(line, text, answer_of(parts))


def _flat_value(value: Any, text: str) -> Any:
    if isinstance(value, str) and value.startswith(("[{", '{"')):
        value = from_json(value, "an annotation")
    if isinstance(value, dict) and len(value) == 1:  # {"choices": […]}, {"text": […]}
        kind, inner = next(iter(value.items()))
        return _joined("textarea" if kind == "text" else kind, value) if isinstance(inner, (list, str)) else value
    if isinstance(value, list) and all(isinstance(each, dict) and "start" in each for each in value):
        return regions_of(value, text)
    return str(value) if isinstance(value, (int, float)) else value


FORMAT = Format(
    "label_studio",
    "An export of Label Studio, as JSON or JSON-MIN: the text is asked, the annotation is the answer.",
    '{"id": 1, "data": {"text": "My parcel is late."}, "annotations": [{"was_cancelled": false, "result": '
    '[{"from_name": "topic", "to_name": "text", "type": "choices", "value": {"choices": ["delivery"]}}]}]}',
    _matches,
    _read,
)
