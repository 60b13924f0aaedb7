"""`python -P -m engine.worker.import_data SPEC`: the rows of a Hugging Face data set, written as JSON Lines.

The only place that imports `datasets`. SPEC is a `DatasetSpec` as JSON. On its output it says, as JSON objects, one a
line, how far it is (`progress`), and in the end `done` or `error`. It ends when its input does: then, and whenever it
is killed, nothing half stands under a final name. Files of the hub are kept in the cache of huggingface_hub, which
continues there; the rows are streamed from them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from engine.child import described
from engine.config import DatasetSpec
from engine.datasets.hub import parse
from engine.errors import DataError, FinetuiError, UsageError
from engine.paths import absolute, home, partial
from engine.text import clean_line
from engine.worker.import_faults import explained
from engine.worker.import_source import FolderSource, HubSource, Report, Rows, Source
from engine.worker.import_values import Convert, to_lines, writable_columns
from engine.worker.surroundings import quiet

STREAM_ROWS = 20_000
"""If no more rows than these are wanted, they are read from the hub's files in place, instead of fetching them."""
BATCH_ROWS = 256
BATCH_BYTES = 16 << 20
"""So much of a table is turned into rows at a time, at most, unless one row is larger."""
HEARTBEAT_S = 0.5
_unfinished: set[Path] = set()
"""Files that this process is writing; to be removed if it ends before they are whole."""
NEEDS_COUNT = re.compile(r"\[[^\]]*[%-]")
"""A slice of a split that cannot be cut without knowing how many rows there are."""


class Window(NamedTuple):
    """Rows of a split, from the first on, up to one that is no longer taken."""

    split: str
    start: int
    stop: int


class Narrator:
    """Tells the client how far the import is: twice a second, whether it changed or not."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._now: dict[str, object] = {"phase": "starting", "done": 0, "total": 0, "unit": ""}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def report(self, phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
        """Note how far it is; costs next to nothing."""
        self._now = {"phase": phase, "done": done, "total": total, "unit": unit}

    def end(self, **reply: object) -> None:
        """Say how it ended, as the last word."""
        self._ended.set()
        self._thread.join()
        self._say(**reply)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            self._say(kind="progress", **self._now)

    def _say(self, **reply: object) -> None:
        self._out.write(json.dumps(reply).encode("ascii") + b"\n")
        self._out.flush()


def import_data(spec: DatasetSpec, report: Report) -> tuple[Path, str]:
    """Write the spec's rows, unless they stand there already. Returns the file, and where its rows come from."""
    source = find_source(spec.path, report)
    whole = target_of(source, spec.model_copy(update={"max_rows": None}))
    target = target_of(source, spec)
    origin = " ".join(filter(None, (source.origin, spec.subset, spec.split)))
    for file in (whole, target):
        if file.is_file():
            return file, origin
    report("opening the data set", 0, 0, "")
    with explained(source.name, local=source.local):
        _tame()
        rows = source.open(spec.subset)
        streams, windows = read(spec, rows, report)
        with unfinished(target, report) as out:
            if out is not None:
                write(streams, windows, spec, rows, out, report)
    return target, origin


def find_source(path: str, report: Report) -> Source:
    """The folder, if there is one, else the data set of the hub. Raises `UsageError` for what is neither."""
    folder = absolute(path)
    if not path.startswith(("hf://", "http://", "https://")) and os.path.isdir(folder):  # noqa: PTH112
        return FolderSource(folder.resolve(), report)
    address = parse(path)
    if address is None:
        hints = (
            "Write org/name, hf://datasets/org/name, or hf://datasets/org/name@revision/file.jsonl.",
            "A file that lies elsewhere on the web: download it, then name the file.",
        )
        raise UsageError("This is not the address of a data set", clean_line(path), hints)
    return HubSource(address, report)


def target_of(source: Source, spec: DatasetSpec) -> Path:
    """The file that the rows are written to: its name says everything that they depend on."""
    address = parse(spec.path)
    subset = "/".join(filter(None, (spec.subset, address.files if address else ""))) or "default"
    parts = [_slug(source.stem), _slug(subset), _slug(spec.split), source.version[:12]]
    if spec.max_rows is not None:
        parts.append(f"first{spec.max_rows}")
    return home() / "datasets" / f"{'--'.join(parts)}.jsonl"


def _slug(text: str) -> str:
    """The text as a part of a file's name; what had to be changed gets a mark that keeps different texts apart."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:60]
    return slug if slug == text else f"{slug}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}"


def read(spec: DatasetSpec, rows: Rows, report: Report) -> tuple[dict[str, Any], list[Window]]:
    """The splits that are wanted, opened, and which of their rows. Raises `UsageError` or `DataError`."""
    names = split_names(spec.split, rows.splits)
    if rows.features:
        writable_columns(rows.features, spec.columns)  # before anything is downloaded
    counted = NEEDS_COUNT.search(spec.split) is not None
    windows = [] if counted else cut(spec.split, names, dict.fromkeys(names, sys.maxsize))
    wanted = min(spec.max_rows or sys.maxsize, max((window.stop for window in windows), default=sys.maxsize))
    streams = rows.read(names, wanted <= STREAM_ROWS)
    if counted:
        windows = cut(spec.split, names, {name: _count(streams[name], report) for name in names})
    return streams, windows


def split_names(split: str, known: Mapping[str, int]) -> list[str]:
    """The splits that a spec like `train[:1000]+test` names; `all` is all. Raises `UsageError` that lists them."""
    if split == "all":
        return list(known)
    names = [re.split(r"[\[(]", part)[0].strip() for part in split.split("+")]
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError(
            clean_line(f"The data set has no split {', '.join(missing)}"),
            clean_line(f"it has {', '.join(known)}", 600),
            (f"Name one: --split {next(iter(known))} (in the app: split={next(iter(known))})",),
        )
    return list(dict.fromkeys(names))


def cut(split: str, names: list[str], counts: Mapping[str, int]) -> list[Window]:
    """The windows of a spec by the rules of `datasets`: `train[:1000]`, `train[10%:20%]+test[-5:]`."""
    from datasets import ReadInstruction

    if split == "all":
        return [Window(name, 0, counts[name]) for name in names]
    try:
        instructions = ReadInstruction.from_spec(split).to_absolute(counts)
    except (ValueError, AssertionError) as error:
        hints = ("Write it like train[:1000], train[10%:20%] or train+test.",)
        raise UsageError("The split cannot be understood", clean_line(f"{split}: {error}"), hints) from error
    return [Window(part.splitname, part.from_, part.to) for part in instructions]


def _count(stream: Any, report: Report) -> int:
    if hasattr(stream, "num_rows"):
        return int(stream.num_rows)
    count = 0
    for table in tables(stream):
        count += table.num_rows
        report("counting rows", count, 0, "rows")
    return count


def tables(stream: Any, rows: int = BATCH_ROWS) -> Iterator[Any]:
    """The rows as `pyarrow.Table`s of at most so many rows and about BATCH_BYTES."""
    for table in stream.with_format("arrow").iter(batch_size=rows):
        step = max(1, BATCH_BYTES * table.num_rows // max(table.nbytes, 1))
        for start in range(0, table.num_rows, step):
            yield table.slice(start, step)


@contextlib.contextmanager
def unfinished(target: Path, report: Report) -> Iterator[IO[bytes] | None]:
    """The file to write to, which gets its name when the block ends well, and is removed when it does not.

    Waits while another process writes the same rows; None: it has written them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = partial(target)
    report("waiting for another import of the same rows", 0, 0, "")
    with _locked(path) as file:
        if target.is_file():
            path.unlink(missing_ok=True)
            yield None
            return
        file.truncate(0)
        _unfinished.add(path)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            path.rename(target)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who held the lock may have renamed or removed the file that was opened.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    yield file
                    return


def write(
    streams: Mapping[str, Any], windows: list[Window], spec: DatasetSpec, rows: Rows, out: IO[bytes], report: Report
) -> None:
    """Write the windows' rows, `max_rows` at most. Raises `DataError` if there are none."""
    limit = spec.max_rows or sys.maxsize
    known = sum(min(window.stop, rows.splits[window.split]) - window.start for window in windows)
    total = max(0, min(limit, known))
    done = 0
    for window in windows:
        for table in _cut_tables(streams[window.split], window, limit - done):
            out.write(to_lines(table, _columns(streams[window.split], table, spec.columns)))
            done += table.num_rows
            report("writing rows", done, max(total, done) if total else 0, "rows")
    if not done:
        raise DataError("The data set has no rows", clean_line(f"{spec.path} {spec.split}"), ("Choose another split.",))


def _cut_tables(stream: Any, window: Window, limit: int) -> Iterator[Any]:
    """The window's tables, `limit` rows at most; reads no further than it must."""
    position, stop = 0, min(window.stop, window.start + limit)
    if stop <= window.start:
        return
    for table in tables(stream, min(BATCH_ROWS, stop)):
        start = max(0, window.start - position)
        piece = table.slice(start, max(0, stop - position - start))
        position += table.num_rows
        if piece.num_rows:
            yield piece
        if position >= stop:
            return


def _columns(stream: Any, table: Any, mapping: str) -> dict[str, Convert | None]:
    from datasets import Features

    return writable_columns(stream.features or Features.from_arrow_schema(table.schema), mapping)


def _end_with_input() -> None:
    """Wait for the end of the input, then end at once, leaving no file that is half written.

    From a thread: a library's own threads may wait for a slow network for long, and would outlive an exception.
    """
    import psutil

    while os.read(0, 1 << 16):
        pass
    downloads = [opened.path for opened in psutil.Process().open_files() if opened.path.endswith(".incomplete")]
    for path in (*_unfinished, *map(Path, downloads)):
        path.unlink(missing_ok=True)
    os._exit(130)


def _settings() -> None:
    """No drawing, and nothing told to anybody about what is loaded. Must come before the libraries are imported."""
    quiet()
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK"):
        os.environ[name] = "1"
    os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"


def _tame() -> None:
    """When the network is gone, `datasets` would wait for minutes without a word: wait for seconds."""
    from datasets import config

    config.STREAMING_READ_MAX_RETRIES = config.STREAMING_OPEN_MAX_RETRIES = 3
    for name in ("READ_RETRY", "READ_SERVER_UNAVAILABLE_RETRY", "READ_RATE_LIMIT_RETRY", "OPEN_RETRY"):
        setattr(config, f"STREAMING_{name}_INTERVAL", 2)


def main() -> int:
    """Import; the exit code is that of the error, if there is one."""
    # Whatever a library prints must not get between the replies: it goes to stderr, and the replies have their own
    # descriptor.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_input, daemon=True).start()
    narrator = Narrator(out)
    try:
        _settings()
        path, source = import_data(DatasetSpec.model_validate_json(sys.argv[1]), narrator.report)
    except FinetuiError as error:
        narrator.end(**described(error))
        return int(error.code)
    narrator.end(kind="done", path=str(path), source=clean_line(source, 400))
    return 0


if __name__ == "__main__":
    sys.exit(main())
