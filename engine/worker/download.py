"""A model of the hub: found in the Hugging Face cache, or downloaded into it, each file compared with the hub's hash.

A stage calls `find`; `engine.worker.fetch_model` does it alone, for `finetui download`.

What huggingface_hub keeps: files that arrived whole. It writes a file under a name of its own and removes it when the
download ends early, so a new start fetches that file from its beginning. Within one start a broken connection is
continued where it broke. Hence few files at a time: more would only mean more to lose at a stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from engine.config import Preset
from engine.disk import free_disk
from engine.errors import FitError, MissingError
from engine.events import Level
from engine.model_folder import differences, preset_of_config, read_config, weight_files
from engine.text import clean_line
from engine.units import format_bytes, format_duration
from engine.worker.download_faults import Busy, broken_off, explained, seconds_to_wait
from engine.worker.hub_files import INDEX, SINGLE, File, amount, chosen, in_cache, is_same, remove, remove_stale

AT_ONCE = 2
"""Files at a time: one is compared with its hash while the other arrives."""
CHUNK_BYTES = 1 << 20
"""A stop is noticed, and progress counted, so often."""
PAUSES_S: tuple[float, ...] = (5.0, 15.0, 60.0)
"""A file whose download broke off is asked for again after each of these pauses."""
LONGEST_WAIT_S = 300.0
"""A hub that asks for a longer pause than this is not waited for."""
T = TypeVar("T")


class Teller(Protocol):
    """Who is told how far it is, and asked whether to stop: a stage's `Context` is one."""

    def phase(self, text: str, /) -> None:
        """What comes now, in words."""

    def progress(self, done: float, total: float, unit: str, label: str, /) -> None:
        """How far it is; from any thread, as often as convenient."""

    def finding(self, level: Level, title: str, detail: str, /) -> None:
        """Something that the user should know."""

    def check_stop(self) -> None:
        """Raises if it is to stop."""


def find(teller: Teller, repo: str, revision: str, preset: Preset | None, *, compare: bool = True) -> Path:
    """The model's folder in the cache, downloaded if it is not whole there.

    `preset`: its numbers must be those of the model's config.json, if they are to be compared. None: there is no
    preset, but the model must be one that finetui can train. Raises `MissingError` (gated, unknown, offline, broken
    off, another model than the preset says), `UsageError` (a config.json that cannot be used) or `FitError` (disk).
    """
    folder = in_cache(repo, revision)
    if folder is not None and compare:
        _require_known(folder, repo, preset)
    return folder or _Download(teller, repo, revision, preset, compare=compare).run()


def _require_known(folder: Path, repo: str, preset: Preset | None) -> None:
    """Raise if the model is another one than the preset says; without a preset, if it is of no use."""
    config, source = read_config(folder), f"{repo}/config.json"
    if preset is None:
        preset_of_config(config, repo, source)
        return
    if found := differences(preset, config):
        hints = (
            "Correct these fields in the preset's TOML file, if the model is the one that you mean.",
            f"Or set `revision` in it to a commit that the numbers are of (here: {folder.name[:12]}).",
            "Or leave the preset out and name the model itself: its own config.json then gives the numbers.",
        )
        raise MissingError(f"The preset {preset.name} and {source} contradict each other", "\n".join(found), hints)


class _Download:
    """One download: what is wanted, how many bytes are still to come, and how far it is."""

    def __init__(self, teller: Teller, repo: str, revision: str, preset: Preset | None, *, compare: bool) -> None:
        from huggingface_hub import constants

        self._teller = teller
        self._repo = repo
        self._asked = revision
        self._preset = preset
        self._compare = compare
        self._cache = Path(constants.HF_HUB_CACHE)
        self._blobs = self._cache / f"models--{repo.replace('/', '--')}" / "blobs"
        self._revision: Any = revision
        self._wanted: list[File] = []
        self._lock = threading.Lock()
        self._done = self._total = 0

    def run(self) -> Path:
        with _polite(), explained(self._repo, self._asked, self._kept):
            self._teller.phase(f"asking the hub for {self._repo}")
            listed = self._patiently(self._list, pauses=())
            config, rest, weights = chosen(self._repo, listed)
            self._want([config, *rest, *weights])
            folder = self._fetch([config])
            if self._compare:
                _require_known(folder, self._repo, self._preset)
            self._fetch(rest)
            named = self._weights(folder, listed)
            if set(named) != set(weights):
                self._want([config, *rest, *named])
            return self._fetch(named)

    def _list(self) -> dict[str, File]:
        """The repository's files at the commit that the revision means now."""
        from huggingface_hub import HfApi, RepoFile

        api = HfApi()
        self._revision = api.resolve_revision(self._repo, revision=self._asked)
        tree = api.list_repo_tree(self._repo, recursive=True, revision=self._revision.resolved)
        files = [entry for entry in tree if isinstance(entry, RepoFile)]
        return {
            file.path: File(file.path, file.size, file.lfs.sha256 if file.lfs else "", file.blob_id) for file in files
        }

    def _weights(self, folder: Path, listed: dict[str, File]) -> list[File]:
        """What the index names, which may be other files than their usual names say."""
        names = [path.name for path in weight_files(folder)] or [SINGLE]
        missing = [name for name in names if name not in listed]
        if missing:
            detail = f"{INDEX} names {clean_line(', '.join(missing[:5]))}, and the repository has no such file"
            raise MissingError(f"{self._repo} is not whole on the hub", detail, ("Choose another revision or copy.",))
        return [listed[name] for name in names]

    # ── what is still to come ──

    def _want(self, files: list[File]) -> None:
        """Note what is to be fetched. Raises `FitError`, before a byte of it has come, if the disk is too small."""
        self._wanted = files
        missing = [file for file in files if not self._is_here(file)]
        needed = sum(file.size for file in missing)
        remove_stale(self._blobs)
        free = free_disk(self._cache)
        if needed > free:
            raise FitError(
                f"{self._repo} does not fit on the disk",
                f"{format_bytes(needed)} to download, {format_bytes(free)} free at {self._cache}",
                (
                    f"Free {format_bytes(needed - free)} there: `hf cache ls` shows what lies in the cache, "
                    "`hf cache rm` removes it.",
                    "Or set HF_HOME to a folder on a larger disk.",
                ),
            )
        with self._lock:
            self._done, self._total = 0, needed
        if missing:
            self._teller.phase(f"downloading {self._repo}: {amount(missing)}")

    def _is_here(self, file: File) -> bool:
        return (self._blobs / file.etag).is_file() or self._path(file).is_file()

    def _path(self, file: File) -> Path:
        return self._blobs.parent / "snapshots" / self._revision.resolved / file.path

    def _kept(self) -> str:
        """What of it is on this machine, in words; empty before the hub has answered."""
        if not self._wanted:
            return ""
        here = [file for file in self._wanted if self._is_here(file)]
        return f"{amount(here)} of {amount(self._wanted)}"

    # ── fetching ──

    def _fetch(self, files: Sequence[File]) -> Path:
        """All of the files; the snapshot's folder. What one of them raises comes out when the others have ended."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download") as pool:
            futures = [pool.submit(self._fetch_file, file) for file in files]
            try:
                for future in as_completed(futures):
                    future.result()
            finally:
                for future in futures:
                    future.cancel()
        return self._blobs.parent / "snapshots" / str(self._revision.resolved)

    def _fetch_file(self, file: File) -> None:
        known = self._is_here(file)
        path = self._patiently(lambda: self._bring(file))
        if known or is_same(path, file):
            return
        with self._lock:
            self._total += file.size
        remove(path)
        self._teller.finding("warning", f"{file.path} arrived damaged", "It was deleted, and is downloaded once more.")
        path = self._patiently(lambda: self._bring(file))
        if not is_same(path, file):
            remove(path)
            detail = f"{clean_line(file.path)} has another hash than on the hub, twice; it was deleted"
            hints = ("Something between this machine and the hub changes data: a proxy, or faulty memory.",)
            raise MissingError(f"A file of {self._repo} arrived damaged", detail, hints)

    def _bring(self, file: File) -> Path:
        """The file in the cache, from the hub if it is not there. Bytes that came in vain count as still to come."""
        from huggingface_hub import hf_hub_download

        self._teller.check_stop()
        came = 0

        def count(size: int) -> None:
            nonlocal came
            self._teller.check_stop()
            came += size
            self._count(size)

        try:
            found = hf_hub_download(self._repo, file.path, revision=self._revision, tqdm_class=_bar(count))
        except BaseException:
            self._count(-came)
            raise
        return Path(found)

    def _count(self, size: int) -> None:
        with self._lock:
            self._done += max(size, 0)
            self._total = max(self._total - min(size, 0), self._done)
            done, total = self._done, self._total
        if size > 0:
            self._teller.progress(done, total, "bytes", "download")

    # ── patience ──

    def _patiently(self, call: Callable[[], T], pauses: Sequence[float] | None = None) -> T:
        """What `call` returns; again after a pause when the hub asks for one, or the connection broke."""
        left = list(PAUSES_S if pauses is None else pauses)
        asked = 0
        while True:
            try:
                return call()
            except Busy as busy:
                asked += 1
                if busy.seconds > LONGEST_WAIT_S or asked > len(PAUSES_S):
                    raise
                self._wait(busy.seconds, "the hub asks to wait")
            except Exception as error:
                if not left or not broken_off(error):
                    raise
                self._wait(left.pop(0), "the connection broke off")

    def _wait(self, seconds: float, why: str) -> None:
        self._teller.phase(f"{why}: going on in {format_duration(seconds)}")
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._teller.check_stop()
            time.sleep(min(left, 0.2))
        with self._lock:  # rate and time left are counted from here
            self._total, self._done = self._total - self._done, 0
        self._teller.phase(f"downloading {self._repo}")


def _bar(count: Callable[[int], None]) -> type:
    """What huggingface_hub takes for a progress bar of one file."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """Counts instead of drawing."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{**settings, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            count(int(n or 0))
            return None

    return Bar


@contextmanager
def _polite() -> Iterator[None]:
    """huggingface_hub as it is wanted here: a hub that is busy is told to us, and nobody is told what is loaded.

    Without Xet, the hub's newer storage: its library reports to a thread where nothing can be stopped. The hub hands
    every file out over plain HTTP as well.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory  # no public name leads to its request hook

    def client() -> Any:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "response": [_tell_busy]}
        return made

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_DISABLE_TELEMETRY = True
    set_client_factory(client)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)


def _tell_busy(response: Any) -> None:
    """Raise for a 429: huggingface_hub would sleep for as long as it is told, deaf to a request to stop."""
    if response.status_code == 429:
        raise Busy(seconds_to_wait(response.headers))
