"""One error type and one table of exit codes, for the app, the command line and the worker alike."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """What the process says to a script when it ends."""

    DONE = 0
    FAULT = 1
    """An unexpected fault: a defect of finetui."""
    USAGE = 2
    DATA = 3
    """The data were refused."""
    FIT = 4
    """It does not fit: GPU memory or disk."""
    RUN = 5
    """The run failed."""
    CERTIFICATE = 6
    """The export is not the model that was trained."""
    MISSING = 7
    """Something needed is not there: GPU, Ollama, network, a gated model, an earlier stage."""
    INTERRUPTED = 130


class FinetuiError(Exception):
    """A fault that a person can understand and act on.

    `title` is one sentence without a full stop, `detail` says what exactly (file, line, figure), and each of
    `hints` is something that the reader can do next.
    """

    code = ExitCode.FAULT

    def __init__(self, title: str, detail: str = "", hints: Sequence[str] = (), code: ExitCode | None = None) -> None:
        super().__init__(title)
        self.title = title
        self.detail = detail
        self.hints = tuple(hints)
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}" if self.detail else self.title


class UsageError(FinetuiError):
    """A command, a name or a setting that cannot be meant."""

    code = ExitCode.USAGE


class DataError(FinetuiError):
    """Data that cannot be trained on."""

    code = ExitCode.DATA


class FitError(FinetuiError):
    """Too little GPU memory or disk."""

    code = ExitCode.FIT


class RunError(FinetuiError):
    """A stage that failed."""

    code = ExitCode.RUN


class CertificateError(FinetuiError):
    """An export that is not the model that was trained."""

    code = ExitCode.CERTIFICATE


class MissingError(FinetuiError):
    """Something that is needed and is not there."""

    code = ExitCode.MISSING
