"""llama.cpp's own log: silent, but its last words are kept for error messages, and a listener can follow it."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llama_cpp import llama_cpp as api

from engine.text import clean_line

_WARNING = 3  # enum ggml_log_level: 1 debug, 2 info, 3 warning, 4 error, 5 continues the line before

_recent: deque[str] = deque(maxlen=12)
_listeners: list[Callable[[str], None]] = []


@api.llama_log_callback  # type: ignore[untyped-decorator]  # ctypes makes it a C function
def _on_log(level: int, text: bytes, _data: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace")
    if _WARNING <= level < 5 and line.strip():
        _recent.append(clean_line(line))
    for listener in _listeners:
        listener(line)


def quiet() -> None:
    """Take llama.cpp's log for this process. llama_cpp's own callback would print to stderr."""
    api.llama_log_set(_on_log, ctypes.c_void_p(0))


def last_words(lines: int = 3) -> str:
    """The newest warnings and errors, oldest first."""
    return "; ".join(list(_recent)[-lines:])


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Hand every piece of the log to `listener` inside the block; it may be called from any thread."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
