"""Chat with a GGUF file: a client of a child process, so that no crash of llama.cpp reaches the app.

Requests and replies are JSON objects, one a line, on the child's standard input and output:
`{"op": "ask", "id": 1, "messages": […], "max_tokens": 512, "temperature": 0}` and `{"op": "cancel", "id": 1}` go in;
`ready`, `delta`, `done` and `error` come out.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.child import Child, told
from engine.datasets.base import Message
from engine.errors import MissingError, RunError
from engine.paths import RunDir
from engine.text import clean


@dataclass(frozen=True)
class Delta:
    """A piece of the answer, cleaned."""

    text: str


@dataclass(frozen=True)
class Done:
    """The end of an answer."""

    tokens: int
    seconds: float
    reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int = 0
    dropped: int = 0
    """Oldest messages that were left out because the conversation did not fit the context."""


def models_of(run: RunDir) -> list[Path]:
    """The run's GGUF files that one can talk to, smallest first."""
    return sorted(run.ggufs, key=lambda path: path.stat().st_size)


class ChatSession(Child):
    """One loaded model. `ask` may run in any thread, `cancel` and `close` in another."""

    def __init__(self, model: Path, context_length: int = 4096) -> None:
        super().__init__()
        self.model = model
        self.context_length = context_length
        self.note = ""
        """Once started: why it does not run on the GPU as a whole."""
        self._asking = threading.Lock()
        self._asked = 0
        self._cancel_wanted = False

    def start(self) -> None:
        """Load the model; returns when it can be asked. Raises `MissingError` or `RunError`."""
        _require_gguf(self.model)
        self._spawn("engine.worker.chat", str(self.model), str(self.context_length))
        try:
            ready = self._read()
        except BaseException:
            self.close()
            raise
        self.context_length = int(ready.get("context_length", self.context_length))
        self.note = clean(str(ready.get("note", "")))

    def __enter__(self) -> ChatSession:
        self.start()
        return self

    def ask(
        self, messages: Sequence[Message], max_tokens: int = 512, temperature: float = 0.0
    ) -> Iterator[Delta | Done]:
        """The answer as it is generated, `Done` last. Leaving the iterator early cancels the answer.

        Raises `RunError` if the template refuses the messages, they do not fit, or the child is dead.
        """
        with self._asking:
            self._asked += 1
            self._cancel_wanted = False
            number = self._asked
            request = {"op": "ask", "id": number, "messages": [dict(message) for message in messages]}
            self._write({**request, "max_tokens": max_tokens, "temperature": temperature})
            finished = False
            try:
                while not finished:
                    reply = self._read(number)
                    finished = reply["kind"] != "delta"
                    yield _piece(reply)
            except RunError:
                finished = True
                raise
            finally:
                if not finished:
                    self._drain(number)

    def _drain(self, number: int) -> None:
        self.cancel()
        with contextlib.suppress(RunError):  # nobody is left to tell
            while self._read(number)["kind"] == "delta":
                pass

    def cancel(self) -> None:
        """Stop the answer that is being generated; its iterator ends with `Done("cancelled")`.

        Never blocks: it may be called from a signal handler that interrupted a write.
        """
        self._cancel_wanted = True
        with contextlib.suppress(RunError):
            self._send_cancel()

    def _send_cancel(self) -> None:
        # Whoever holds the lock looks at the wish after letting it go, so it is never lost.
        if self._cancel_wanted and self._writing.acquire(blocking=False):
            self._cancel_wanted = False
            try:
                self._send({"op": "cancel", "id": self._asked})
            finally:
                self._writing.release()

    def _write(self, request: dict[str, Any]) -> None:
        with self._writing:
            self._send(request)
        self._send_cancel()

    def _read(self, number: int | None = None) -> dict[str, Any]:
        """The next reply to the request; a reply to an earlier one, which was cancelled, is skipped."""
        while True:
            reply = self._receive()
            if reply.get("id") not in (None, number):
                continue
            if reply["kind"] == "error":
                raise told(reply, RunError)
            return reply

    def _ended(self, how: str) -> RunError:
        if not how:
            return RunError("The chat is closed", self.model.name, ("Open it again.",))
        hints = (
            "The file may be damaged, or memory ran out.",
            "Make it again (finetui gguf), or use a smaller quantization.",
        )
        return RunError("The model's process died", f"{self.model.name}: {how}", hints)


def _piece(reply: dict[str, Any]) -> Delta | Done:
    if reply["kind"] == "delta":
        return Delta(clean(reply["text"]))
    return Done(reply["tokens"], reply["seconds"], reply["reason"], reply["prompt_tokens"], reply["dropped"])


def _require_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise MissingError(
            "The model file cannot be read", f"{path}: {error.strerror or error}", ("finetui gguf RUN makes one.",)
        ) from error
    if magic != b"GGUF":
        raise RunError(
            "This is not a GGUF file", f"{path.name} begins with {magic!r}", ("finetui gguf RUN makes one.",)
        )
