"""Which container a file is, by its first bytes and then by its suffix."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from engine.datasets.lines import BOM, reading, shown
from engine.datasets.readers.base import Reader
from engine.datasets.readers.delimited import Delimited
from engine.datasets.readers.foreign import refuse_foreign
from engine.datasets.readers.json_list import JsonList
from engine.datasets.readers.jsonl import JsonLines
from engine.datasets.readers.parquet import Parquet
from engine.datasets.readers.plain import Plain
from engine.errors import DataError
from engine.text import clean_line

HEAD_BYTES = 64 * 1024

_JSON = (".jsonl", ".ndjson", ".json")
_PARQUET = (".parquet", ".pq")
_PLAIN = (".txt", ".text", ".md", ".markdown")
_KNOWN = ".jsonl, .ndjson, .json, .csv, .tsv, .parquet, .txt or .md"

_LIST_KEY = re.compile(rb'"([^"\\\n]{1,60})"\s*:\s*\[\s*[\r\n{]')
_OPEN_END = (b"{", b"[", b",", b":")


def find_reader(path: Path) -> Reader:
    """The reader for a file. Raises `DataError` for one without rows: missing, a folder, packed, a document."""
    with reading(path) as file:
        head = file.read(HEAD_BYTES)
    suffix = path.suffix.lower()
    if head.startswith(b"PAR1") or suffix in _PARQUET:
        return Parquet()
    refuse_foreign(path, head)
    start = head.removeprefix(BOM).lstrip()
    first, more, rest = start.partition(b"\n")
    whole = _value(first)
    if suffix in (".csv", ".tsv") and not isinstance(whole, dict):
        _refuse_page(path, start)
        return Delimited(tabs=suffix == ".tsv")
    if suffix in _PLAIN and not isinstance(whole, dict):
        return Plain()
    if start.startswith(b"["):
        # a list on each line is no list of rows: each of these lines gets its own fault
        return JsonLines() if isinstance(whole, list) and rest.strip() else JsonList(b"\n" not in start[1:].strip())
    if start.startswith(b"{"):
        if more and whole is None and first.rstrip().endswith(_OPEN_END):
            _refuse_object(path, head)
        return JsonLines()
    _refuse_page(path, start)
    if suffix in _JSON:
        return JsonLines()
    raise DataError(
        "It cannot be told what kind of data file this is", shown(path), (f"Give it a suffix that says it: {_KNOWN}.",)
    )


def _value(line: bytes) -> Any:
    """The JSON value that a line is; None if it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _refuse_page(path: Path, start: bytes) -> None:
    if start[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        hint = "A link was saved instead of the file behind it, or the server answered with a page: download it again."
        raise DataError("The data file is a web page", f"{shown(path)}:1", (hint,))


def _refuse_object(path: Path, head: bytes) -> None:
    """Raise the error for a file that is one JSON object over several lines, often around the list of rows."""
    found = _LIST_KEY.search(head)
    key = found[1].decode("utf-8", "replace") if found else ""
    inside = f".[{json.dumps(clean_line(key), ensure_ascii=False)}][]" if key else "."
    raise DataError(
        "The data file is one JSON object over several lines, neither JSON Lines nor a list",
        f"{shown(path)}:1",
        (f"Write one object per line: jq -c '{inside}' old.json > new.jsonl",),
    )
