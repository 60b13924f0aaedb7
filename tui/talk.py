"""A conversation's other end: the child process that holds the model, asked from threads, heard by messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from engine import chat
from engine.errors import FinetuiError

if TYPE_CHECKING:
    from textual.message_pump import MessagePump

    from engine.datasets.base import Message as ChatMessage

MAX_TOKENS = 512
"""Longest answer."""


@dataclass
class Ready(Message):
    """The model is loaded, or cannot be."""

    model: Path
    error: FinetuiError | None = None
    note: str = ""
    """Why it does not run on the GPU as a whole."""


@dataclass
class Delta(Message):
    """A piece of the answer with this number."""

    number: int
    text: str


@dataclass
class Ended(Message):
    """The answer with this number is whole, or broke off."""

    number: int
    done: chat.Done | None
    error: FinetuiError | None = None


class Talk:
    """One model at a time. Every method returns at once; what happens is posted to `target`."""

    def __init__(self, target: MessagePump) -> None:
        self._target = target
        self._guard = threading.Lock()
        self._session: chat.ChatSession | None = None
        self._closed = False

    def load(self, model: Path, context_length: int) -> None:
        """Let go of the model that is loaded, and load this one."""
        self._in_thread(lambda: self._load(model, context_length))

    def ask(self, number: int, history: Sequence[ChatMessage]) -> None:
        """Ask the loaded model; the pieces of the answer carry the number."""
        self._in_thread(lambda: self._ask(number, list(history)))

    def cancel(self) -> None:
        """Stop the answer that comes."""
        session = self._session
        if session is not None:
            session.cancel()

    def close(self) -> None:
        """End the child process."""
        self._closed = True
        self._in_thread(self._let_go)

    def _in_thread(self, work: Callable[[], None]) -> None:
        # Daemons: a model that loads for a minute must not keep the terminal from being given back.
        threading.Thread(target=work, name="talk", daemon=True).start()

    def _load(self, model: Path, context_length: int) -> None:
        self._let_go()
        session = chat.ChatSession(model, context_length=context_length)
        with self._guard:
            self._session = session
        try:
            session.start()
        except FinetuiError as error:
            if self._is_current(session):
                self._target.post_message(Ready(model, error))
            return
        if self._is_current(session):
            self._target.post_message(Ready(model, note=session.note))
        else:  # the screen was left, or another model chosen, while it was loading
            session.close()

    def _is_current(self, session: chat.ChatSession) -> bool:
        return session is self._session and not self._closed

    def _let_go(self) -> None:
        with self._guard:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _ask(self, number: int, history: list[ChatMessage]) -> None:
        session, done = self._session, None
        if session is None:
            return
        try:
            for piece in session.ask(history, max_tokens=MAX_TOKENS):
                if isinstance(piece, chat.Done):
                    done = piece
                else:
                    self._target.post_message(Delta(number, piece.text))
        except FinetuiError as error:
            self._target.post_message(Ended(number, None, error))
        else:
            self._target.post_message(Ended(number, done))
