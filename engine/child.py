"""A child process that is asked in JSON objects, one a line, and answers so: whatever ends it, its client lives on."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import IO, Any

from engine.errors import ExitCode, FinetuiError
from engine.text import clean

CLOSE_TIMEOUT_S = 3.0
"""How long a child may take to end after its input is closed."""


class Child(ABC):
    """The client's end. A subclass says what the child is asked, and in what words its end is told.

    The child reads its standard input and ends with it, so it never outlives this process.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._writing = threading.Lock()
        self._closed = False

    @abstractmethod
    def _ended(self, how: str) -> FinetuiError:
        """What is told when the child is gone; `how` (signal or exit code, last words) is empty after `close`."""

    def _spawn(self, module: str, *arguments: str) -> None:
        """Start the module as a process."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C in the terminal is for us
        )

    def _send(self, request: Mapping[str, Any]) -> None:
        """Write one request; the caller holds `_writing`. Raises what `_ended` makes."""
        process = self._process
        if process is None or process.stdin is None or self._closed:
            raise self._ended("")
        try:
            process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._dead() from error

    def _receive(self) -> dict[str, Any]:
        """The next reply. Raises what `_ended` makes."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
        except ValueError:  # closed by another thread
            line = b""
        if not line.endswith(b"\n"):
            raise self._dead()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _dead(self) -> FinetuiError:
        assert self._process is not None
        if self._closed:
            return self._ended("")
        self._process.kill()
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        tail = self._tail()
        return self._ended(f"{how}: {tail}" if tail else how)

    def _tail(self) -> str:
        assert self._errors is not None
        try:
            self._errors.seek(0)
            words = self._errors.read()[-4096:]
        except ValueError:  # closed by another thread
            return ""
        return clean("\n".join(words.decode("utf-8", "replace").splitlines()[-8:]))

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

    def __exit__(self, *_error: object) -> None:
        self.close()


def described(error: FinetuiError) -> dict[str, object]:
    """An error as a reply."""
    return {
        "kind": "error",
        "title": error.title,
        "detail": error.detail,
        "hints": list(error.hints),
        "code": int(error.code),
    }


def told(reply: Mapping[str, Any], kind: type[FinetuiError] | None = None) -> FinetuiError:
    """The error that a reply tells of, cleaned; of the class that has its exit code, if no other is asked for."""
    code = ExitCode(reply["code"])
    kind = kind or next((known for known in FinetuiError.__subclasses__() if known.code == code), FinetuiError)
    return kind(clean(reply["title"]), clean(reply["detail"]), [clean(hint) for hint in reply["hints"]], code)
