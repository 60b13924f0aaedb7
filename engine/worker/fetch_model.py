"""`python -P -m engine.worker.fetch_model REQUEST`: a model of the hub, downloaded into the Hugging Face cache.

REQUEST is an `engine.download.Request` as JSON. On its output it says, as JSON objects, one a line, how far it is
(`progress`), and in the end `done` or `error`. It ends when its input does, or with SIGTERM: what it had fetched of a
file by then is removed, and files that arrived whole are kept.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from engine.child import described
from engine.download import Request
from engine.errors import FinetuiError
from engine.events import Level
from engine.worker import download
from engine.worker.import_data import Narrator
from engine.worker.lineage import commit_of
from engine.worker.surroundings import quiet


class Told:
    """Passes on to the client what a download tells."""

    def __init__(self, narrator: Narrator) -> None:
        self._narrator = narrator
        self._phase = "starting"
        self.fetched = 0
        self.findings: list[str] = []

    def phase(self, text: str, /) -> None:
        """What comes now, in words."""
        self._phase = text
        self._narrator.report(text)

    def progress(self, done: float, total: float, unit: str, _label: str, /) -> None:
        """How far it is."""
        self.fetched = int(done)
        self._narrator.report(self._phase, int(done), int(total), unit)

    def finding(self, _level: Level, title: str, detail: str, /) -> None:
        """Told at the end."""
        self.findings.append(f"{title}: {detail}")

    def check_stop(self) -> None:
        """A request to stop ends this process."""


def _end() -> None:
    """End at once, leaving no half file; a library's own threads may wait for a slow network for long."""
    import psutil

    for opened in psutil.Process().open_files():
        if opened.path.endswith(".incomplete"):
            Path(opened.path).unlink(missing_ok=True)
    os._exit(130)


def _end_with_input() -> None:
    while os.read(0, 1 << 16):
        pass
    _end()


def _end_with_signal(_number: int, _frame: FrameType | None) -> None:
    _end()


def main() -> int:
    """Download; the exit code is that of the error, if there is one."""
    # Whatever a library prints must not get between the replies: it goes to stderr, and the replies have their own
    # descriptor.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _end_with_signal)
    threading.Thread(target=_end_with_input, daemon=True).start()
    narrator = Narrator(out)
    told = Told(narrator)
    try:
        quiet()
        request = Request.model_validate_json(sys.argv[1])
        folder = download.find(told, request.model, request.revision, request.preset)
    except FinetuiError as error:
        narrator.end(**described(error))
        return int(error.code)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    narrator.end(
        kind="done",
        path=str(folder),
        commit=commit_of(folder) or "",
        size_bytes=size,
        fetched=bool(told.fetched),
        findings=told.findings,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
