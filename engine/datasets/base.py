"""What every data format turns into at the door: a row of messages, or a fault with a remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypedDict  # pydantic takes the standard one only from Python 3.12 on

ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """One turn of a chat, as chat templates take it."""

    role: str
    """system, user or assistant."""
    content: str


@dataclass(frozen=True)
class Row:
    """One usable row and the line of the file that it stands on, counted from 1."""

    line: int
    messages: list[Message]


@dataclass(frozen=True)
class Fault:
    """A way in which a row cannot be used."""

    one: str
    """What is said of one such row: "row is not JSON"."""
    many: str
    effect: str
    remedy: str

    def title(self, count: int) -> str:
        """`2 rows are not JSON`."""
        return f"{count:,} {self.one if count == 1 else self.many}"


_UNUSABLE = "The data are refused: leaving rows out silently would train on something else than was given."


def _fault(what_one: str, what_many: str, remedy: str) -> Fault:
    return Fault(f"row {what_one}", f"rows {what_many}", _UNUSABLE, remedy)


NOT_UTF8 = _fault(
    "is not UTF-8", "are not UTF-8", "Save the file as UTF-8, for example: iconv -f LATIN1 -t UTF-8 old > new"
)
NUL = _fault(
    "contains NUL characters",
    "contain NUL characters",
    "Write the file anew: NULs come from UTF-16 or from a copy that broke off.",
)
TOO_LONG = _fault(
    "is larger than 16 MiB",
    "are larger than 16 MiB",
    "Split the row; if it is the whole file, write one JSON object per line (jq -c '.[]' old.json > new.jsonl).",
)
NOT_JSON = _fault("is not JSON", "are not JSON", "Correct or delete these lines; each line is one whole JSON object.")
TOO_DEEP = _fault("is nested too deeply", "are nested too deeply", "Correct or delete these lines.")
NOT_OBJECT = _fault(
    "is not a JSON object",
    "are not JSON objects",
    'Write each row as an object, like {"messages": [{"role": "user", "content": "…"}, …]}.',
)
NO_KEYS = _fault(
    "lacks the keys of its format",
    "lack the keys of their format",
    "Rename the keys, or name the right format (--set format=…).",
)
WRONG_TYPE = _fault(
    "holds something else than text where text belongs",
    "hold something else than text where text belongs",
    "Write the text as a JSON string; numbers, lists and null cannot be trained on.",
)
BAD_ROLE = _fault(
    "has an unknown role",
    "have an unknown role",
    "Use the roles system, user and assistant (in sharegpt: system, human and gpt).",
)
LATE_SYSTEM = _fault(
    "has a system message after the first",
    "have a system message after the first",
    "Put the system message first, and only one.",
)
SURROGATE = _fault(
    "contains half of a character",
    "contain half of a character",
    r"A lone \ud800…\udfff is a broken emoji: write the whole character, or delete it.",
)
NO_ANSWER = _fault("has no assistant turn", "have no assistant turn", "Add the answer that is to be learned.")
EMPTY_ANSWER = _fault("has an empty answer", "have an empty answer", "Fill in the answer, or delete the row.")
ENDS_ON_USER = _fault(
    "does not end with an answer",
    "do not end with an answer",
    "Add the assistant's last turn, or delete the turn that has no answer.",
)


class Unusable(Exception):
    """A row that cannot be used, why, and what exactly."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__(fault.one)
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True)
class Format:
    """One way of writing a row."""

    name: str
    help: str
    example: str
    """One row, as it stands in a file."""
    matches: Callable[[Mapping[str, Any]], bool]
    """True if an object has the keys of this format."""
    to_messages: Callable[[Mapping[str, Any]], list[Message]]
    """The object's turns, roles and order not yet checked. Raises `Unusable`."""


def text_at(row: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """The text under a key; `default` if the key is absent or null. Raises `Unusable`."""
    value = row.get(key)
    if value is None and default is not None:
        return default
    if key not in row:
        raise Unusable(NO_KEYS, f"no key {key!r}")
    if not isinstance(value, str):
        raise Unusable(WRONG_TYPE, f"{key!r} is {json_type(value)}")
    return value


def json_type(value: object) -> str:
    """What JSON calls a value's type, with its article."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")


def turns_at(row: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The list of objects under a key. Raises `Unusable`."""
    if key not in row:
        raise Unusable(NO_KEYS, f"no key {key!r}")
    turns = row[key]
    if not isinstance(turns, list):
        raise Unusable(WRONG_TYPE, f"{key!r} is {json_type(turns)}, not a list")
    for turn in turns:
        if not isinstance(turn, dict):
            raise Unusable(WRONG_TYPE, f"a turn in {key!r} is {json_type(turn)}, not an object")
    return turns


def has_turns(row: Mapping[str, Any], key: str, *keys: str) -> bool:
    """True if under `key` stands a list whose first turn has all of `keys`."""
    turns = row.get(key)
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and all(k in turns[0] for k in keys)


def check_turns(messages: list[Message]) -> None:
    """Raise `Unusable` unless the turns can be learned from: known roles, system first, ending with an answer."""
    for position, message in enumerate(messages):
        if message["role"] not in ROLES:
            raise Unusable(BAD_ROLE, f"role {message['role']!r}")
        if message["role"] == "system" and position:
            raise Unusable(LATE_SYSTEM)
        _check_text(message["content"])
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers:
        raise Unusable(NO_ANSWER)
    if messages[-1]["role"] != "assistant":
        raise Unusable(ENDS_ON_USER)
    if not all(answer.strip() for answer in answers):
        raise Unusable(EMPTY_ANSWER)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise Unusable(NUL)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable(SURROGATE, f"at character {error.start + 1}") from None
