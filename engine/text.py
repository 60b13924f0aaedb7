"""`clean()`: the one door for text that comes from outside (data rows, names, model output, exceptions).

A terminal obeys escape sequences wherever they come from, and Textual passes them through, so every such text
is cleaned once, where it enters: when an event is read, when a preset is loaded, when a row is shown.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_UNSAFE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 without tab and newline, and DEL
    "\x80-\x9f"  # C1: 0x9b is an escape sequence by itself
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional overrides: text that lies about its order
    "\u2028\u2029"
    "\ud800-\udfff"  # lone surrogates: cannot be written to a terminal at all
    "\ufeff"
    "]"
)


def clean(text: str) -> str:
    """The text with each character that a terminal might act on replaced by U+FFFD; tab and newline stay."""
    return _UNSAFE.sub("\ufffd", text.replace("\r\n", "\n"))


def clean_line(text: str, limit: int = 200) -> str:
    """`clean()` on one line of at most `limit` characters, for lists, titles and log lines."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


Text = Annotated[str, AfterValidator(clean)]
"""A field of a pydantic model that holds text from outside."""
