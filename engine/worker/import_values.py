"""From Arrow to JSON Lines: which columns can be written, and how their values are."""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import DataError
from engine.text import clean_line

TEXTUAL = {
    "Value",
    "ClassLabel",
    "Translation",
    "TranslationVariableLanguages",
    "List",
    "LargeList",
    "Json",
    "Array2D",
    "Array3D",
    "Array4D",
    "Array5D",
}
"""The features of `datasets` that are made of texts and figures; every other one holds media."""

Convert = Callable[[Any], Any]


def writable_columns(features: Mapping[str, Any], mapping: str) -> dict[str, Convert | None]:
    """The columns to write, each with what its values must go through; None: they are written as they are.

    `mapping` is the spec's `columns`. Where it says what is learned from, a column of media or bytes is left out;
    else such a column is an error: a model that sees only the text of a picture book learns the wrong thing.
    Raises `DataError` that names the columns.
    """
    foreign = {name: kind for name, feature in features.items() if (kind := _foreign(feature))}
    used = _used(mapping) if mapping else set(foreign)
    refused = [name for name in foreign if name in used]
    if refused:
        found = ", ".join(f"{name} ({foreign[name]})" for name in refused)
        hints = (
            "finetui learns from text only.",
            "If the text alone is enough, say which columns hold it, and the others are left out: "
            "--columns 'user=question, assistant=answer'",
        )
        raise DataError("The data set has columns that are no text", clean_line(found), hints)
    return {name: _converter(feature) for name, feature in features.items() if name not in foreign}


def _used(mapping: str) -> set[str]:
    """The columns that a mapping names: `user={question} in short, assistant=answer`."""
    values = [piece.partition("=")[2].strip() for piece in re.split(r",\s*(?=\w+\s*=)", mapping)]
    return {*values, *(name.strip() for value in values for name in re.findall(r"\{([^{}]+)\}", value))}


def _foreign(feature: Any) -> str:
    """What a feature holds that is neither text nor figure: `image`, `audio`, `bytes` …; empty: nothing."""
    if isinstance(feature, Mapping):
        return next((kind for part in feature.values() if (kind := _foreign(part))), "")
    if isinstance(feature, (list, tuple)):
        return _foreign(feature[0])
    kind = type(feature).__name__
    if kind not in TEXTUAL:
        return kind.lower()
    if kind in ("List", "LargeList"):
        return _foreign(feature.feature)
    return "bytes" if "binary" in str(getattr(feature, "dtype", "")) else ""


def _converter(feature: Any) -> Convert | None:
    """What turns a value of the column into what it means: a class into its name, stored JSON into what it says."""
    kind = type(feature).__name__
    if isinstance(feature, Mapping):
        parts = {name: convert for name, part in feature.items() if (convert := _converter(part))}
        return _of_struct(parts) if parts else None
    if isinstance(feature, (list, tuple)) or kind in ("List", "LargeList"):
        inner = _converter(feature[0] if isinstance(feature, (list, tuple)) else feature.feature)
        return _of_list(inner) if inner else None
    if kind == "ClassLabel" and feature.names:
        names = list(feature.names)
        return lambda value: names[value] if value is not None and 0 <= value < len(names) else None
    return _from_json if kind == "Json" else None


def _of_struct(parts: Mapping[str, Convert]) -> Convert:
    def convert(value: Any) -> Any:
        if value is None:
            return None
        return {key: parts[key](item) if key in parts else item for key, item in value.items()}

    return convert


def _of_list(inner: Convert) -> Convert:
    return lambda values: None if values is None else [inner(value) for value in values]


def _from_json(value: Any) -> Any:
    import orjson

    return orjson.loads(value) if isinstance(value, (str, bytes)) else value


def to_lines(table: Any, columns: Mapping[str, Convert | None]) -> bytes:
    """The rows of a `pyarrow.Table` as JSON Lines, with these columns of it.

    Points in time become ISO 8601, decimals the text of their digits, durations seconds; NaN and infinity, which JSON
    has not, null.
    """
    import orjson

    rows = table.select(list(columns)).to_pylist()
    for name, convert in columns.items():
        if convert:
            for row in rows:
                row[name] = convert(row[name])
    return b"".join(orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _plain(value: Any) -> Any:
    """What orjson does not know by itself."""
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.datetime):  # a subclass: pandas' Timestamp, for nanoseconds
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
