"""How a command speaks: data on stdout, narration on stderr, colour only where a terminal shows it."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TextIO

from engine.errors import FinetuiError
from engine.text import clean, clean_line

Tone = Literal["ok", "warning", "error", "dim", "strong", "trained"]

SYMBOLS: Mapping[str, str] = {"ok": "✓", "warning": "!", "error": "✗"}
_COLOURS: Mapping[Tone, str] = {
    "ok": "32",
    "warning": "33",
    "error": "31",
    "dim": "2",
    "strong": "1",
    "trained": "1;4",
}
_ERASE_LINE = "\r\x1b[K"


def is_terminal(stream: TextIO) -> bool:
    """True if the stream is a terminal that understands escape sequences."""
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


class Output:
    """One command's voice. With `as_json`, stdout carries one JSON object and nothing else."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.as_lines = False
        """True once JSON went out line by line: then an error is one line too."""
        self._live = False

    @property
    def on_terminal(self) -> bool:
        """True if the live line is shown."""
        return is_terminal(sys.stderr)

    def say(self, text: str = "") -> None:
        """Narrate a line on stderr."""
        self._clear()
        print(text, file=sys.stderr, flush=True)

    def live(self, text: str) -> None:
        """Replace the line at the bottom of the terminal; does nothing where there is no terminal."""
        if not self.on_terminal:
            return
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(_ERASE_LINE + clean_line(text, max(width, 10)))
        sys.stderr.flush()
        self._live = True

    def _clear(self) -> None:
        if self._live:
            sys.stderr.write(_ERASE_LINE)
            self._live = False

    def result(self, data: Mapping[str, Any], lines: str | Iterable[str] = ()) -> None:
        """What the command found: `data` as JSON, or the lines for people."""
        self._clear()
        if self.as_json:
            put(json.dumps(plain(data), indent=2))
            return
        for line in [lines] if isinstance(lines, str) else lines:
            put(line)

    def text(self, line: str) -> None:
        """One line of data on stdout, at once: for what is followed while it happens."""
        self._clear()
        put(line, flush=True)

    def line(self, data: Any) -> None:
        """One JSON value as one line on stdout, at once."""
        self.as_lines = True
        self.text(json.dumps(data, separators=(",", ":")))

    def error(self, error: FinetuiError) -> None:
        """Tell an error on stderr: what, why, and what to do; with `as_json` on stdout too."""
        for line in error_lines(error, sys.stderr):
            self.say(line)
        if self.as_json:
            put(json.dumps(plain({"error": error_data(error)}), indent=None if self.as_lines else 2))


class Unwritable(Exception):
    """Standard output does not take what is written to it: its disk is full, for example."""


def put(line: str, *, flush: bool = False) -> None:
    """Write a line to standard output. Raises `Unwritable`, or `BrokenPipeError` when the reader has left."""
    try:
        print(line, flush=flush)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(error.strerror or str(error)) from error


def flush() -> None:
    """Push what was written to where it goes; raises like `put`."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(error.strerror or str(error)) from error


def error_data(error: FinetuiError) -> dict[str, Any]:
    """The error as a JSON object."""
    return {
        "title": error.title,
        "detail": error.detail,
        "hints": list(error.hints),
        "exit_code": int(error.code),
    }


def error_lines(error: FinetuiError, stream: TextIO) -> list[str]:
    """`✗ title`, the detail, and each hint behind an arrow."""
    lines = [style(f"✗ {clean_line(error.title)}", "error", stream)]
    lines += [f"  {line}" for line in clean(error.detail).splitlines()]
    return lines + [f"  → {clean_line(hint, 400)}" for hint in error.hints]


def style(text: str, tone: Tone | None, stream: TextIO | None = None) -> str:
    """The text in a colour, if the stream (stdout when not told) shows colours and nobody asked for none."""
    if tone is None or os.environ.get("NO_COLOR") or not is_terminal(stream or sys.stdout):
        return text
    return f"\x1b[{_COLOURS[tone]}m{text}\x1b[0m"


def mark(level: Literal["ok", "warning", "error"], text: str, stream: TextIO | None = None) -> str:
    """The text behind the level's symbol: colour never carries the meaning alone."""
    return f"{style(SYMBOLS[level], level, stream)} {text}"


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows of cells as lines with aligned columns; the columns in `right` are aligned to the right."""
    if not rows:
        return []
    aligned = set(right)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in aligned else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def pairs(values: Mapping[str, str]) -> list[str]:
    """Names and values in two columns; what is empty is left out."""
    return table([(name, value) for name, value in values.items() if value])


def plain(value: Any) -> Any:
    """The value as JSON can say it: models as objects, paths as text, a figure that is no number as null."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
