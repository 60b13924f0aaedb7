"""When two rows are the same: 64 bits of a row, whatever format it was written in.

xxh3 is not cryptographic: two different rows of a million share their 64 bits with a probability of about 3 in 10⁸.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import xxhash

from engine.datasets.base import Message, Row

_hash = xxhash.xxh3_64_intdigest
_dumps = orjson.dumps
_SORTED = orjson.OPT_SORT_KEYS


def fingerprint(row: Row) -> int:
    """64 bits that are equal for identical rows: the same turns with the same roles, texts, thoughts and tools."""
    return fingerprints(row)[1]


def prompt_fingerprint(row: Row) -> int:
    """64 bits of everything before a conversation's last answer; 0 where nobody asks: raw text, or an answer alone."""
    return fingerprints(row)[0]


def fingerprints(row: Row) -> tuple[int, int]:
    """`prompt_fingerprint` and `fingerprint` in one go, for a scan of millions of rows."""
    messages = row.messages
    if not messages:
        return 0, _hash(row.text.encode())
    last = messages[-1]
    end = len(messages) - 1 if last["role"] == "assistant" else answer_index(messages)
    asking: Any = messages[:end] if row.tools is None else [row.tools, messages[:end]]
    said: Any = last if end == len(messages) - 1 else messages[end:]
    try:
        prompt = _hash(_dumps(asking, None, _SORTED))
        whole = _hash(_dumps(said, None, _SORTED), prompt)
    except TypeError:
        prompt = _hash(_bytes(asking))
        whole = _hash(_bytes(said), prompt)
    asked = end > 1 or (end == 1 and messages[0]["role"] != "system")
    return (prompt if asked else 0), whole


def earlier_prompts(row: Row) -> list[int]:
    """`prompt_fingerprint` of the conversation up to each answer but the last, where somebody asks before it.

    Taken as the messages go by, so that a conversation of many turns costs no more than its length. Behind a value
    that JSON has not (a date from Parquet), prompts are not known again.
    """
    messages = row.messages
    end = answer_index(messages) if messages else 0
    if end < 2 or not any(message["role"] == "assistant" for message in messages[:end]):
        return []
    opening, closing = (b"[", b"]") if row.tools is None else (b"[" + _bytes(row.tools) + b",[", b"]]")
    running, found = xxhash.xxh3_64(opening), []
    for at, message in enumerate(messages[:end]):
        if message["role"] == "assistant" and (at > 1 or (at == 1 and messages[0]["role"] != "system")):
            whole = running.copy()
            whole.update(closing)
            found.append(whole.intdigest())
        running.update((b"," if at else b"") + _bytes(message))
    return found


def _bytes(value: Any) -> bytes:
    try:
        return _dumps(value, None, _SORTED)
    except TypeError:  # what Parquet or a tool's arguments may hold and JSON may not: dates, integers beyond 64 bits
        return _written(value)


def answer_index(messages: Sequence[Message]) -> int:
    """Where the last answer stands; the number of messages if there is none."""
    if messages[-1]["role"] == "assistant":
        return len(messages) - 1
    return next((at for at in range(len(messages) - 1, -1, -1) if messages[at]["role"] == "assistant"), len(messages))


def _written(value: Any) -> bytes:
    """The same bytes for the same value, whatever the order of its keys."""
    if isinstance(value, dict):
        return b"{%s}" % b",".join(sorted(repr(key).encode() + b":" + _written(inner) for key, inner in value.items()))
    if isinstance(value, list):
        return b"[%s]" % b",".join(map(_written, value))
    return repr(value).encode("utf-8", "backslashreplace")
