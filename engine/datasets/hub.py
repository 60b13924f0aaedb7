"""Hugging Face data sets: told from files by their path, and turned into a JSON Lines file by a child process.

A data set is named by its id (`org/name`), by an address (`hf://datasets/org/name@revision/files`), by its page on the
hub, or by a folder on this machine that `datasets` can load.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import unquote

from engine.child import Child, told
from engine.config import DatasetSpec
from engine.errors import RunError
from engine.paths import absolute
from engine.text import clean_line

DATA_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".arrow")
"""Files that make a folder a data set."""

FILE_SUFFIXES = (*DATA_SUFFIXES, ".txt", ".md", ".gz", ".zip", ".bz2", ".xz", ".zst", ".xlsx", ".pdf", ".py", ".toml")
"""What ends like this is meant as a file, also where there is none."""

PACKED = (".gz", ".bz2", ".xz")
"""A data file may be packed so: `datasets` unpacks it."""

SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
"""Made by `save_to_disk`."""

LOOKED_AT = 2000
"""So many entries of a folder are looked at for data files: a person may be typing the path."""

_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_ID = re.compile(rf"({_NAME}/{_NAME})(?:@([^\s/@]+|refs/\w+/\w+))?")
_ADDRESS = re.compile(rf"hf://datasets/({_NAME}(?:/{_NAME})?)(?:@(refs/\w+/\w+|[^\s/@]+))?(?:/(.+))?")
_PAGE = re.compile(
    rf"https?://[^/]+/datasets/({_NAME}/{_NAME})(?:/(?:tree|blob|resolve)/(refs/\w+/\w+|[^\s/?#]+)(?:/([^?#]+))?)?(?:[/?#].*)?"
)


class Address(NamedTuple):
    """What of the hub is meant."""

    repo: str
    """`org/name`."""
    revision: str = ""
    """A branch, a tag or a commit; empty: the main branch."""
    files: str = ""
    """Only these files of the repository, as a path or a glob; empty: what its card says."""


class Progress(NamedTuple):
    """How far an import is."""

    phase: str
    """What it does now, in words."""
    done: int
    total: int
    """0: not known."""
    unit: Literal["", "bytes", "rows"]


OnProgress = Callable[[Progress], None]


def hub_spec(path: str) -> bool:
    """True if the path is a Hugging Face data set and not a file: an id, an address, or a folder `datasets` reads."""
    if path.startswith(("hf://", "https://", "http://")):
        return True
    here = absolute(path)
    if os.path.isdir(here):  # noqa: PTH112 - pathlib raises for what no file can be called
        return bool(path) and is_data_folder(here)
    if os.path.lexists(here):  # a pipe or a broken link too: what is wrong with it is told by who reads it
        return False
    return parse(path) is not None and not path.lower().endswith(FILE_SUFFIXES)


def parse(path: str) -> Address | None:
    """The data set on the hub that a path names; None if it names none."""
    text = path.strip().removesuffix("/")
    for pattern in (_ID, _ADDRESS, _PAGE):
        if match := pattern.fullmatch(text):
            repo, revision, files = (*match.groups(""), "")[:3]
            return Address(repo, unquote(revision), unquote(files))
    return None


def is_data_folder(folder: Path) -> bool:
    """True for a folder with data files, at most two folders down, and for one that `save_to_disk` made."""
    return any(_is_data(name) for name in islice(_names(folder), LOOKED_AT))


def _is_data(name: str) -> bool:
    plain = next((name[: -len(end)] for end in PACKED if name.endswith(end)), name)
    return name in SAVED or plain.lower().endswith(DATA_SUFFIXES)


def _names(folder: Path) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        depth = len(Path(path).relative_to(folder).parts)
        folders[:] = [name for name in sorted(folders) if depth < 2 and not name.startswith(".")]
        yield from files
        yield from folders  # counted too: a tree of empty folders is no data set


def fetch(spec: DatasetSpec, on_progress: OnProgress | None = None) -> DatasetSpec:
    """The data set as a file: its rows in `home()/datasets/….jsonl`, made now or found there from an earlier time.

    `on_progress` is called at least once a second, in this thread; what it raises ends the import and comes out of
    here. Raises `MissingError`, `DataError`, `UsageError` or `FitError` (the disk is full), with what to do.
    """
    child = _Import(spec)
    try:
        return child.run(on_progress or (lambda _progress: None))
    finally:
        child.close()


class _Import(Child):
    """One import: the child says how far it is, then `done` or `error`, and ends."""

    def __init__(self, spec: DatasetSpec) -> None:
        super().__init__()
        self.spec = spec

    def run(self, on_progress: OnProgress) -> DatasetSpec:
        self._spawn("engine.worker.import_data", self.spec.model_dump_json())
        while True:
            reply = self._receive()
            if reply["kind"] == "error":
                raise told(reply)
            if reply["kind"] == "done":
                return self.spec.model_copy(update={"path": reply["path"], "source": reply["source"]})
            on_progress(Progress(clean_line(reply["phase"]), reply["done"], reply["total"], reply["unit"]))

    def _ended(self, how: str) -> RunError:
        hints = (
            "Try again: files that were downloaded whole are kept.",
            "SIGKILL may mean that memory ran out: a data set of large JSON lists is read whole. Download it with "
            "`hf download … --repo-type dataset --local-dir FOLDER` and name its file: that needs little memory.",
        )
        return RunError("The import of the data set died", f"{clean_line(self.spec.path, 400)}: {how}", hints)
