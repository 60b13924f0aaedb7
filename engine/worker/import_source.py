"""Where the rows of an import come from: the hub, a folder with data files, or a folder that `save_to_disk` made."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from engine.datasets.hub import SAVED, Address
from engine.errors import DataError, MissingError, UsageError
from engine.text import clean_line
from engine.worker.import_faults import explained, not_here, unreachable

STREAM_BYTES = 64 << 20
"""Files that are together smaller are fetched whole, even if only a few rows are wanted: then they are here."""

MAX_FILES = 100_000
"""A folder with more is a disk or a home rather than a data set, and is not searched further."""

Report = Callable[[str, int, int, str], None]
"""`report(phase, done, total, unit)`."""

TEXT_BUILDERS = ("parquet", "json", "csv", "text", "arrow", "xml", "conll", "cache")
"""The loaders of `datasets` that are used. Others read media, and one (`pandas`) runs what a pickle holds."""


@dataclass(frozen=True)
class Rows:
    """A data set that was opened: what is in it, and how to read it."""

    splits: Mapping[str, int]
    """Split → how many rows it has; 0: not known."""
    features: Mapping[str, Any] | None
    """The columns by name, where they are known before anything is read."""
    read: Callable[[Sequence[str], bool], dict[str, Any]]
    """`read(splits, few)`: each of the splits as a `Dataset` or an `IterableDataset`; few: do not fetch it whole."""


class Source(Protocol):
    """A data set that was found."""

    name: str
    """As a person calls it."""
    origin: str
    """Where exactly the rows come from: with the commit, if it is of the hub."""
    stem: str
    """How the names of its files begin."""
    version: str
    """Differs wherever the rows may; hexadecimal."""
    local: bool
    """It is a folder on this machine."""

    def open(self, subset: str) -> Rows:
        """Look at one subset of it; an empty name is its only one, or the one it names as its default."""
        ...


class HubSource:
    """A data set of the hub, at the commit that its revision means now; without a network, that it meant last."""

    def __init__(self, address: Address, report: Report) -> None:
        from huggingface_hub import HfApi

        self.name = address.repo
        self.local = False
        self._address = address
        self._report = report
        report("asking the hub", 0, 0, "")
        with explained(self.name):
            revision = HfApi().resolve_revision(address.repo, repo_type="dataset", revision=address.revision or None)
        self.version = revision.resolved
        files = f"/{address.files}" if address.files else ""
        self.origin = f"hf://datasets/{self.name}@{self.version}{files}"
        self.stem = self.name.replace("/", "--")

    def open(self, subset: str) -> Rows:
        """Raises `MissingError` (gated, not there, no network), `UsageError` (no such subset) or `DataError`."""
        from huggingface_hub import HfApi

        try:
            HfApi().auth_check(self.name, repo_type="dataset")  # `datasets` hides a refusal behind other errors
        except Exception as error:
            if not unreachable(error):
                raise
            return self._open_here(subset, error)
        builder = _builder(self.name, subset, self._address.files, self.version)
        return _rows_of(builder, self.name, self._localized)

    def _open_here(self, subset: str, error: Exception) -> Rows:
        """Without a network: from a snapshot that is whole, else from what `datasets` itself prepared earlier."""
        folder = self._snapshot()
        if folder is not None:
            return _rows_of(_builder(folder, subset, self._address.files), self.name)
        try:
            builder = _builder(self.name, subset, self._address.files, self.version)
        except Exception as fault:
            if not unreachable(fault):
                raise
            raise not_here(self.name, str(error)) from fault
        if builder.name != "cache" or builder.hash != self.version:
            raise not_here(self.name, f"{error}; the cache holds another version than {self.version[:12]}")
        return _rows_of(builder, self.name)

    def _snapshot(self) -> str | None:
        """The folder of this commit in the hub's cache, if every file of the repository is there."""
        from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

        wanted: dict[str, Any] = {"repo_id": self.name, "repo_type": "dataset", "revision": self.version}
        try:
            get_cached_repo_tree(**wanted)  # without it, nobody can say whether the folder is whole
            return str(snapshot_download(**wanted, local_files_only=True))
        except (errors.CachedRepoTreeNotFoundError, errors.LocalEntryNotFoundError):
            return None

    def _localized(self, paths: Sequence[str], few: bool) -> list[str]:
        """Where to read the files: in the hub's cache, downloaded if need be; few: on the hub, if they are large."""
        prefix = f"hf://datasets/{self.name}@{self.version}/"
        if any(not path.startswith(prefix) for path in paths):
            return list(paths)  # inside an archive
        names = [path.removeprefix(prefix) for path in paths]
        missing = [name for name in names if _in_cache(self.name, self.version, name) is None]
        infos = self._infos(missing)
        if few and sum(info.size for info in infos) > STREAM_BYTES:
            return list(paths)
        if missing:
            self._download(missing)
            self._verify(infos)
        return [_in_cache(self.name, self.version, name) or path for name, path in zip(names, paths, strict=True)]

    def _infos(self, names: Sequence[str]) -> list[Any]:
        """Sizes and hashes of the files (`RepoFile`)."""
        from huggingface_hub import HfApi, RepoFile

        ask = partial(HfApi().get_paths_info, self.name, revision=self.version, repo_type="dataset")
        pages = (ask(list(names[start : start + 500])) for start in range(0, len(names), 500))
        return [info for page in pages for info in page if isinstance(info, RepoFile)]

    def _download(self, names: Sequence[str]) -> None:
        from huggingface_hub import constants, snapshot_download

        # Progress, and what a broken connection leaves to continue from, come in chunks of this size.
        constants.DOWNLOAD_CHUNK_SIZE = 1 << 20
        self._report("downloading", 0, 0, "bytes")
        wanted: dict[str, Any] = {"repo_id": self.name, "repo_type": "dataset", "revision": self.version}
        patterns = [glob.escape(name) for name in names]
        snapshot_download(**wanted, allow_patterns=patterns, tqdm_class=_progress_bar(self._report))

    def _verify(self, infos: Sequence[Any]) -> None:
        """Compare what came with the hashes of the hub, which huggingface_hub leaves out: it compares sizes."""
        for info in infos:
            self._report(f"verifying {info.path}", 0, 0, "")
            path = Path(_in_cache(self.name, self.version, info.path) or "")
            if not _is_same(path, info.lfs.sha256 if info.lfs else "", info.blob_id):
                _remove(path)
                said = f"{clean_line(info.path)} has another hash than on the hub"
                raise MissingError(
                    f"A file of {self.name} arrived damaged",
                    said,
                    ("It was deleted: start again to download it anew.",),
                )


def _in_cache(repo: str, commit: str, name: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=commit, repo_type="dataset")
    return found if isinstance(found, str) else None


def _is_same(path: Path, sha256: str, blob_id: str) -> bool:
    """Whether a file is the one with this SHA-256, or else with this name of a git blob."""
    with path.open("rb") as file:
        if sha256:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        start = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        return hashlib.file_digest(file, start.copy).hexdigest() == blob_id


def _remove(path: Path) -> None:
    """Take a file out of the hub's cache: the name in the snapshot, and the bytes that it points to."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _progress_bar(report: Report) -> type:
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """Reports instead of drawing."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            self._in_bytes = settings.get("name") == "huggingface_hub.snapshot_download"
            self._done = 0.0
            super().__init__(*arguments, **{**settings, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self._done += n or 0
            if self._in_bytes:
                report("downloading", int(self._done), int(max(self.total or 0, self._done)), "bytes")
            return None

    return Bar


class FolderSource:
    """A folder on this machine, with data files or made by `save_to_disk`; its version: its files, sizes and times."""

    def __init__(self, folder: Path, report: Report) -> None:
        report("looking at the folder", 0, 0, "")
        self.name = self.origin = str(folder)
        self.local = True
        self._folder = folder
        self.stem = f"local--{folder.name}"
        digest = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape"))
        for number, fact in enumerate(_facts(folder)):
            if number == MAX_FILES:
                hint = "Name the folder that holds nothing but the data set, or one of its files."
                said = f"{clean_line(self.name)} holds more than {MAX_FILES:,} files"
                raise DataError("The folder is too large to be a data set", said, (hint,))
            digest.update(fact.encode("utf-8", "replace"))
        self.version = digest.hexdigest()

    def open(self, subset: str) -> Rows:
        """Raises `UsageError` (no such subset) or `DataError`."""
        if any((self._folder / name).is_file() for name in SAVED) and not _has_card(self._folder):
            return self._open_saved(subset)
        return _rows_of(_builder(self.name, subset), self.name)

    def _open_saved(self, subset: str) -> Rows:
        from datasets import DatasetDict, load_from_disk

        if subset:
            raise UsageError("A saved data set has no subsets", f"{subset} was asked for", ("Leave the subset out.",))
        found = load_from_disk(self.name)
        splits = dict(found) if isinstance(found, DatasetDict) else {str(found.split or "train"): found}
        features = next(iter(splits.values())).features
        return Rows(
            {str(name): split.num_rows for name, split in splits.items()},
            features,
            lambda names, _few: {name: splits[name] for name in names},
        )


def _facts(folder: Path) -> Iterator[str]:
    """Name, size and time of each file below a folder, in order; what may not be looked at is left out."""
    for path, folders, names in os.walk(folder):
        folders.sort()
        for file in (Path(path, name) for name in sorted(names)):
            with contextlib.suppress(OSError):  # a broken link, or another's; whether it is needed shows in reading
                facts = file.stat()
                if stat.S_ISREG(facts.st_mode):
                    yield f"\n{file.relative_to(folder)}\t{facts.st_size}\t{facts.st_mtime_ns}"


def _has_card(folder: Path) -> bool:
    """True for a copy of a repository: an old one holds a dataset_info.json beside its data files too."""
    return os.path.lexists(folder / "README.md") and not os.path.lexists(folder / "state.json")


def _builder(path: str, subset: str, files: str = "", revision: str | None = None) -> Any:
    """The `DatasetBuilder` of a repository or a folder. Raises `UsageError` that lists the subsets."""
    from datasets import get_dataset_config_names, load_dataset_builder

    arguments: dict[str, Any] = {"revision": revision, "data_files": files or None}
    try:
        builder = load_dataset_builder(path, subset or None, **arguments)
    except ValueError as error:
        if not str(error).startswith(("Config name is missing", "BuilderConfig ")):
            raise
        names = get_dataset_config_names(path, **arguments)
        title = f"{path} has no subset {subset}" if subset else f"{path} has several subsets, and none is named"
        raise UsageError(
            clean_line(title),
            clean_line(f"it has {', '.join(names)}", 600),
            (f"Name one: --subset {names[0]} (in the app: subset={names[0]})",),
        ) from error
    if builder.name not in TEXT_BUILDERS:
        raise DataError(
            f"{path} is no data set of text",
            f"its files are loaded as {builder.name}",
            ("Choose one that holds text.",),
        )
    return builder


def _rows_of(builder: Any, name: str, localized: Callable[[Sequence[str], bool], list[str]] | None = None) -> Rows:
    """What a builder offers, streamed; `localized` says where a split's files are to be read from."""
    from datasets.data_files import DataFilesDict, DataFilesList

    files = builder.config.data_files
    known = builder.info.splits or {}
    names = [str(split) for split in (files if files is not None else known)]

    def read(splits: Sequence[str], few: bool) -> dict[str, Any]:
        if files is not None:
            chosen = {split: [str(path) for path in files[split]] for split in splits}
            paths = {split: localized(some, few) if localized else some for split, some in chosen.items()}
            # Only what is wanted: to stream one split, `datasets` looks into the files of all.
            lists = {split: DataFilesList(some, [()] * len(some)) for split, some in paths.items()}
            builder.config.data_files = DataFilesDict(lists)
        if few and builder.name == "parquet":
            builder.config.fragment_scan_options = _sparing()
        streams = {split: builder.as_streaming_dataset(split) for split in splits}
        # One row group after the other: of a whole file, pyarrow would read ahead without end.
        return streams if few or builder.name != "parquet" else {name: some.reshard() for name, some in streams.items()}

    if not names:
        raise DataError(f"{name} has no splits", "", ("It holds no rows.",))
    rows = {split: int(known[split].num_examples or 0) if split in known else 0 for split in names}
    return Rows(rows, builder.info.features, read)


def _sparing() -> Any:
    """Read a Parquet file by the parts that are needed; pyarrow would take 32 MiB at a time, and some ahead."""
    import pyarrow as pa
    import pyarrow.dataset as pads

    options = pa.CacheOptions(range_size_limit=1 << 20, lazy=True, prefetch_limit=0)
    return pads.ParquetFragmentScanOptions(cache_options=options)
