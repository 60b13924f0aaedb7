"""The last door of both front ends: a fault that nobody foresaw, told in a sentence and kept whole in crash.log."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from engine.errors import FinetuiError
from engine.paths import home
from engine.text import clean_line


def program_version() -> str:
    """The version of finetui that runs."""
    try:
        return version("finetui")
    except PackageNotFoundError:
        return "(not installed)"


def keep(error: BaseException, given: Sequence[str]) -> FinetuiError:
    """Append the traceback to crash.log; the error that is returned says in a sentence what happened and where it is.

    `given` are the arguments of the command line.
    """
    sentence = clean_line(f"{type(error).__name__}: {error}", 400)
    log = home() / "crash.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"── {time.strftime('%Y-%m-%d %H:%M:%S')} finetui {program_version()} {list(given)}\n")
            file.write("".join(traceback.format_exception(error)))
    except OSError as unwritable:
        hint = f"The traceback could not be kept: {log}: {unwritable.strerror}"
    else:
        hint = f"A defect of finetui; the traceback is in {log}. Please report it."
    return FinetuiError("Something unexpected went wrong", sentence, (hint,))
