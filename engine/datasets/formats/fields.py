"""The values under an object's keys, each with a fault that says what stands there instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.datasets.base import Message, Row, Unusable
from engine.datasets.faults import NO_KEYS, NOT_JSON, TOO_DEEP, WRONG_TYPE, Fault

_TYPES = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def json_type(value: object) -> str:
    """What JSON calls a value's type, with its article; Parquet has others too (`a datetime`)."""
    return _TYPES.get(type(value)) or f"a {type(value).__name__}"


def text_at(row: Mapping[str, Any], key: str) -> str:
    """The text under a key. Raises `Unusable`."""
    value = row.get(key)
    if type(value) is str:
        return value
    if key not in row:
        raise Unusable(NO_KEYS, f"no key {key!r}")
    raise Unusable(WRONG_TYPE, f"{key!r} is {json_type(value)}")


def optional_text(row: Mapping[str, Any], *keys: str) -> str:
    """The text under the first of the keys that is there and not null; empty if none is. Raises `Unusable`."""
    for key in keys:
        if row.get(key) is not None:
            return text_at(row, key)
    return ""


def list_at(row: Mapping[str, Any], key: str) -> list[Any]:
    """The list under a key. Raises `Unusable`."""
    if key not in row:
        raise Unusable(NO_KEYS, f"no key {key!r}")
    value = row[key]
    if not isinstance(value, list):
        raise Unusable(WRONG_TYPE, f"{key!r} is {json_type(value)}, not a list")
    return value


def object_in(value: object, what: str) -> Mapping[str, Any]:
    """The value, if it is an object. Raises `Unusable` saying `what` it is."""
    if not isinstance(value, dict):
        raise Unusable(WRONG_TYPE, f"{what} is {json_type(value)}, not an object")
    return value


def from_json(text: str, what: str, fault: Fault = NOT_JSON) -> Any:
    """The value that a text of JSON holds. Raises `Unusable` saying `what` it is."""
    try:
        return json.loads(text)
    except RecursionError:
        raise Unusable(TOO_DEEP, what) from None
    except json.JSONDecodeError as error:
        raise Unusable(fault, f"{what} is not JSON: {error}") from None
    except ValueError:
        raise Unusable(fault, f"{what} is not JSON: a number of thousands of digits") from None


def first_key(row: Mapping[str, Any], *keys: str) -> str:
    """The first of the keys that the object has; else the first of all, so that a fault names it."""
    return next((key for key in keys if key in row), keys[0])


def has_turns(row: Mapping[str, Any], key: str, *keys: str) -> bool:
    """True if under `key` stands a list whose first turn has all of `keys`."""
    turns = row.get(key)
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and all(k in turns[0] for k in keys)


def conversation(line: int, question: str, answer: str, system: str = "") -> Row:
    """A row of one question and one answer, with a system message if there is one."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Row(line, messages)


def paragraphs(*texts: str) -> str:
    """The texts that are not blank, with an empty line between them."""
    return "\n\n".join(text for text in texts if text.strip())
