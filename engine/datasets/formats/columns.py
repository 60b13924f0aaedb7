"""Rows of no known format: what stands in which column, said by the person who knows it.

`user=question, assistant=reply`: a value is a column's name, or a text with columns in braces, like
`user=Translate to {language}: {text}`. `text=body` takes a column as raw text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from engine.datasets.base import Format, Message, Row, Unusable
from engine.datasets.faults import EMPTY_TEXT, NO_KEYS, WRONG_TYPE
from engine.datasets.formats.fields import json_type
from engine.errors import UsageError
from engine.text import clean_line

_PARTS = ("system", "user", "assistant", "text")
_NEXT = re.compile(r",\s*(?=\w+\s*=)")
_COLUMN = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
_EXAMPLE = "For example: --columns 'user=question, assistant=reply'"


def columns_format(columns: str) -> Format:
    """The format that a mapping of columns describes. Raises `UsageError` if it describes none."""
    mapping = _parse(columns)

    def read(row: Mapping[str, Any], line: int) -> Row:
        told = {part: _fill(row, template) for part, template in mapping.items()}
        if "text" in told:
            if not told["text"].strip():
                raise Unusable(EMPTY_TEXT)
            return Row(line, [], told["text"])
        if not told.get("system", "").strip():
            told.pop("system", None)
        messages: list[Message] = [{"role": part, "content": told[part]} for part in _PARTS if part in told]
        return Row(line, messages)

    return Format(FORMAT.name, FORMAT.help, FORMAT.example, lambda _: False, read, detectable=False)


def _parse(columns: str) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for piece in _NEXT.split(columns):
        part, equals, value = (text.strip() for text in piece.partition("="))
        if not (part and equals and value):
            raise _wrong(f"{clean_line(piece)!r} is not of the form part=column")
        if part not in _PARTS:
            raise _wrong(f"{clean_line(part)!r} is none of {', '.join(_PARTS)}")
        if part in mapping:
            raise _wrong(f"{part} stands there twice")
        mapping[part] = value
    if "text" in mapping and len(mapping) > 1:
        raise _wrong("text stands alone: it is raw text, not a conversation")
    if "text" not in mapping and not {"user", "assistant"} <= set(mapping):
        raise _wrong("a conversation needs user and assistant")
    return mapping


def _wrong(detail: str) -> UsageError:
    return UsageError("The columns cannot be meant", detail, (_EXAMPLE,))


def _fill(row: Mapping[str, Any], template: str) -> str:
    """A column's value, or the template with its columns filled in. Raises `Unusable`."""
    if template in row or not _COLUMN.search(template):
        return _cell(row, template)
    braces = {"{{": "{", "}}": "}"}
    return _COLUMN.sub(lambda found: braces.get(found[0]) or _cell(row, found[1].strip()), template)


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise Unusable(NO_KEYS, f"no column {column!r}; there are {', '.join(map(repr, list(row)[:8])) or 'none'}")
    value = row[column]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):  # a label may be a number, as it is in CSV
        return str(value)
    raise Unusable(WRONG_TYPE, f"{column!r} is {json_type(value)}")


def _without_columns(row: Mapping[str, Any], line: int) -> NoReturn:  # noqa: ARG001 – a format's reader has both
    raise UsageError("The format columns needs to know the columns", "", (_EXAMPLE,))


FORMAT = Format(
    "columns",
    "Any other columns, named by --columns: user=question, assistant=reply.",
    '{"question": "Where is the Louvre?", "reply": "In Paris."}',
    lambda _: False,
    _without_columns,
    detectable=False,
)
