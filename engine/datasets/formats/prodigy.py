"""Exports of Prodigy (`db-out`): tasks with what was annotated, and "answer": accept, reject or ignore.

Shapes: Prodigy's page on annotation interfaces. Only accepted tasks are learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Format, Row, Skipped, Unusable
from engine.datasets.faults import NOT_TEXT
from engine.datasets.formats.annotations import answer_of, regions_of
from engine.datasets.formats.fields import conversation, list_at, object_in, text_at

_ANSWERS = {"reject": "rejected in Prodigy", "ignore": "ignored in Prodigy"}
_ANNOTATED = ("label", "accept", "options", "spans", "user_input")
_OTHER_MEDIA = ("image", "audio", "video")


def _matches(row: Mapping[str, Any]) -> bool:
    if "_input_hash" in row or "_task_hash" in row:
        return True
    return row.get("answer") in ("accept", *_ANSWERS) and any(key in row for key in _ANNOTATED)


def _read(row: Mapping[str, Any], line: int) -> Row:
    answer = row.get("answer")
    if answer != "accept":
        raise Skipped(_ANSWERS.get(str(answer), "not annotated"))
    if "text" not in row and any(key in row for key in _OTHER_MEDIA):
        raise Unusable(NOT_TEXT, "an image, a sound or a video")
    text = text_at(row, "text")
    return conversation(line, text, answer_of(_parts(row, text)))


def _parts(row: Mapping[str, Any], text: str) -> dict[str, Any]:
    """What was annotated: options that were chosen, else a label; a text that was typed; spans."""
    parts: dict[str, Any] = {}
    if row.get("accept") is not None:
        if chosen := _chosen(row):
            parts["accept"] = ", ".join(chosen)
    elif row.get("label") is not None:
        parts["label"] = text_at(row, "label")
    if row.get("user_input"):
        parts["user_input"] = text_at(row, "user_input")
    if row.get("spans") or (isinstance(row.get("spans"), list) and not parts):  # no entity is an answer too
        parts["spans"] = regions_of(list_at(row, "spans"), text)
    return parts


def _chosen(row: Mapping[str, Any]) -> list[str]:
    """The texts of the chosen options; an option without text is called by its id."""
    given = list_at(row, "options") if row.get("options") is not None else []
    options = [object_in(option, "an option") for option in given]
    texts = {str(option.get("id")): option.get("text") for option in options}
    accepted = [str(each) for each in list_at(row, "accept")]
    return [text if isinstance(text := texts.get(name), str) else name for name in accepted]


FORMAT = Format(
    "prodigy",
    "An export of Prodigy: the text is asked; the label, options, spans or typed text of accepted tasks is the answer.",
    '{"text": "My parcel is late.", "label": "delivery", "answer": "accept", "_input_hash": 1, "_task_hash": 2}',
    _matches,
    _read,
)
