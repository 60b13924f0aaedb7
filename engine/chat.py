"""Chat with a GGUF file: a client of a child process, so that no crash of llama.cpp reaches the app.

Requests and replies are JSON objects, one a line, on the child's standard input and output:
`{"op": "ask", "id": 1, "messages": […], "max_tokens": 512, "temperature": 0}` and `{"op": "cancel", "id": 1}` go in;
`ready`, `delta`, `done` and `error` come out.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from engine.datasets.base import Message
from engine.errors import ExitCode, MissingError, RunError
from engine.paths import RunDir
from engine.text import clean

CLOSE_TIMEOUT_S = 3.0
"""How long a child may take to end after its input is closed."""


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


class ChatSession:
    """One loaded model. `ask` may run in any thread, `cancel` and `close` in another."""

    def __init__(self, model: Path, context_length: int = 4096) -> None:
        self.model = model
        self.context_length = context_length
        self.note = ""
        """Once started: why it does not run on the GPU as a whole."""
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._writing = threading.Lock()
        self._asking = threading.Lock()
        self._asked = 0
        self._cancel_wanted = False
        self._closed = False

    def start(self) -> None:
        """Load the model; returns when it can be asked. Raises `MissingError` or `RunError`."""
        _require_gguf(self.model)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the session
        command = [sys.executable, "-P", "-m", "engine.worker.chat", str(self.model), str(self.context_length)]
        # Its own session: Ctrl-C in the terminal is for us, and becomes a cancel.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        try:
            ready = self._read()
        except BaseException:
            self.close()
            raise
        self.context_length = int(ready.get("context_length", self.context_length))
        self.note = clean(str(ready.get("note", "")))

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

    def close(self) -> None:
        """End the child; idempotent."""
        self._closed = True
        process = self._process
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError), self._writing:
            process.stdin.close()
        try:
            process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def __enter__(self) -> ChatSession:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _write(self, request: dict[str, Any]) -> None:
        with self._writing:
            self._send(request)
        self._send_cancel()

    def _send(self, request: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None or self._closed:
            raise RunError("The chat is closed", self.model.name, ("Open it again.",))
        try:
            process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._dead() from error

    def _read(self, number: int | None = None) -> dict[str, Any]:
        """The next reply to the request; a reply to an earlier one, which was cancelled, is skipped."""
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            try:
                line = self._process.stdout.readline()
            except ValueError:  # closed by another thread
                line = b""
            if not line.endswith(b"\n"):
                raise self._dead()
            reply: dict[str, Any] = json.loads(line)
            if reply.get("id") not in (None, number):
                continue
            if reply["kind"] == "error":
                raise RunError(
                    clean(reply["title"]),
                    clean(reply["detail"]),
                    [clean(hint) for hint in reply["hints"]],
                    ExitCode(reply["code"]),
                )
            return reply

    def _dead(self) -> RunError:
        assert self._process is not None
        if self._closed:
            return RunError("The chat is closed", self.model.name)
        self._process.kill()
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        tail = self._tail()
        hints = (
            "The file may be damaged, or memory ran out.",
            "Make it again (finetui gguf), or use a smaller quantization.",
        )
        return RunError("The model's process died", f"{self.model.name}: {how}{tail and ': ' + tail}", hints)

    def _tail(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return clean("\n".join(self._errors.read()[-4096:].decode("utf-8", "replace").splitlines()[-8:]))


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
