"""Data files: the table of formats. Each format has a file of its own; all of them end in messages or in text."""

from __future__ import annotations

import difflib

from engine.datasets.base import Format, Message, Row
from engine.datasets.formats import (
    chosen,
    columns,
    instruction,
    label_studio,
    messages,
    preference,
    prodigy,
    prompt_completion,
    question_answer,
    sharegpt,
    text,
)
from engine.errors import UsageError
from engine.text import clean_line

_IN_ORDER = (
    messages,
    sharegpt,
    label_studio,  # what a tool wrote has marks of its own; what has a text or a prompt in it may be many things
    prodigy,
    preference,
    instruction,
    prompt_completion,
    question_answer,
    text,
    chosen,
    columns,
)

FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in _IN_ORDER}
"""Every format by name, in the order in which they are tried."""


def find_format(name: str) -> Format:
    """The format of that name. Raises `UsageError` naming those that there are."""
    if name in FORMATS:
        return FORMATS[name]
    near = difflib.get_close_matches(name, FORMATS, n=1)
    hint = f"Did you mean {near[0]}?" if near else "Leave it at auto to have it detected."
    raise UsageError(f"There is no data format {clean_line(name)!r}", f"Formats: auto, {', '.join(FORMATS)}", (hint,))


__all__ = ["FORMATS", "Format", "Message", "Row", "find_format"]
