"""Models of the hub, downloaded by a child process into the Hugging Face cache, where a run then finds them."""

from __future__ import annotations

from engine.child import Child, told
from engine.config import Frozen, Preset
from engine.datasets.hub import OnProgress, Progress
from engine.errors import RunError
from engine.text import Text, clean_line


class Request(Frozen):
    """What the child is asked for."""

    model: str
    """A hub id."""
    revision: str = "main"
    preset: Preset | None = None
    """Its numbers must be those of the model's config.json; None: the model must be one that finetui can train."""


class Downloaded(Frozen):
    """A model that is on this machine whole."""

    path: str
    """Its folder in the Hugging Face cache."""
    commit: Text
    size_bytes: int
    """Of all its files."""
    fetched: bool
    """False if it was here already, and the hub was not asked."""
    findings: tuple[Text, ...] = ()
    """What happened on the way."""


def of_preset(preset: Preset) -> Request:
    """The request for a preset's model."""
    return Request(model=preset.model, revision=preset.revision, preset=preset)


def download(request: Request, on_progress: OnProgress | None = None) -> Downloaded:
    """The model, downloaded if it is not here whole; what an earlier download fetched whole is not fetched again.

    `on_progress` is called at least once a second, in this thread; what it raises ends the download and comes out of
    here. Raises `MissingError` (gated, unknown, offline, broken off, other numbers than the preset's), `FitError`
    (the disk is too small) or `UsageError` (a config.json that cannot be used), with what to do.
    """
    child = _Download(request)
    try:
        return child.run(on_progress or (lambda _progress: None))
    finally:
        child.close()


class _Download(Child):
    """One download: the child says how far it is, then `done` or `error`, and ends."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._request = request

    def run(self, on_progress: OnProgress) -> Downloaded:
        self._spawn("engine.worker.fetch_model", self._request.model_dump_json())
        while True:
            reply = self._receive()
            kind = reply.pop("kind")
            if kind == "error":
                raise told(reply)
            if kind == "done":
                return Downloaded.model_validate(reply)
            on_progress(Progress(clean_line(reply["phase"]), reply["done"], reply["total"], reply["unit"]))

    def _ended(self, how: str) -> RunError:
        hints = ("Start again: files that arrived whole are kept.",)
        return RunError("The download died", f"{clean_line(self._request.model)}: {how}", hints)
