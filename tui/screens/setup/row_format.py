"""How the rows are written, to be chosen: the columns that there are, and the first row as a choice would read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from textual.content import Content

from engine.config import DatasetSpec
from engine.datasets import FORMATS
from engine.datasets.base import Row, Skipped, Unusable
from engine.datasets.formats.columns import columns_format
from engine.datasets.readers import Record, find_reader
from engine.datasets.report import DatasetReport
from engine.datasets.rows import parse
from engine.errors import UsageError
from engine.paths import absolute
from engine.text import clean, clean_line
from tui.modals.columns import COLUMNS, Choice, Column, ColumnsModal
from tui.widgets.mask_view import TRAINED_STYLE

AUTO = "auto"
UNKNOWN, PREFERENCE, CHOSEN = "unknown", "preference", "chosen"
LOOKED_AT = 50
"""Rows whose columns are offered."""
SAMPLE = 60
INDENT = 11
"""Where what is said begins, behind who says it."""
SHOWN = 600
"""Characters of a message in the preview."""


class Peek(NamedTuple):
    """The first rows of a file as they stand there."""

    records: tuple[Record, ...]
    columns: tuple[Column, ...]


def peek(data: DatasetSpec) -> Peek:
    """The first rows, quickly. Raises `DataError`."""
    path = absolute(data.path)
    records = tuple(next(find_reader(path).blocks(path, lambda _: None), [])[:LOOKED_AT])
    samples: dict[str, str] = {}
    for record in records:
        for name, value in record.value.items() if isinstance(record.value, dict) else ():
            samples[str(name)] = samples.get(str(name)) or _sample(value)
    return Peek(records, tuple(Column(name, sample) for name, sample in samples.items()))


def _sample(value: object) -> str:
    if value in (None, "", [], {}):
        return ""
    return clean_line(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False), SAMPLE)


def form(peeked: Peek, data: DatasetSpec, detected: str) -> ColumnsModal:
    """The form for these data; `detected` is the format that was found."""
    auto = f"Detected: {detected}." if detected in FORMATS else "Found out from the first rows; here none fits."
    formats = {AUTO: auto, **{name: format.help for name, format in FORMATS.items()}}
    chosen = Choice(_proposed(data, detected) if peeked.columns else data.format, data.columns)
    detected_name = detected if detected in FORMATS else ""
    return ColumnsModal(formats, peeked.columns, chosen, lambda choice: preview(peeked.records, choice, detected_name))


def _proposed(data: DatasetSpec, detected: str) -> str:
    if data.columns:
        return COLUMNS
    if data.format == AUTO:
        return {UNKNOWN: COLUMNS, PREFERENCE: CHOSEN}.get(detected, AUTO)
    return data.format


def preview(records: Sequence[Record], choice: Choice, detected: str) -> Content:
    """The first row that can be read like this, or why the first cannot."""
    name = detected if choice.format == AUTO else choice.format
    if not records or not name:
        return Content.styled("There is nothing to show." if not records else "Choose a format.", "$quiet")
    try:
        read = columns_format(choice.columns) if name == COLUMNS else FORMATS[name]
    except UsageError:  # not yet
        return Content.styled("Choose which column is the user and which the assistant; or one as text.", "$quiet")
    first: Content | None = None
    for record in records:
        try:
            return describe(parse(record, read))
        except Unusable as bad:
            first = first or _fault(bad, record)
        except Skipped as skipped:
            first = first or Content.styled(f"line {record.line} is skipped: {clean_line(skipped.reason)}", "$quiet")
    return first or Content("")


def _fault(bad: Unusable, record: Record) -> Content:
    detail = f": {clean_line(bad.detail)}" if bad.detail else ""
    return Content.styled(f"✗ line {record.line}: {bad.fault.one}{detail}", "$error")


def describe(row: Row) -> Content:
    """A row's messages, a line or more each; what is learned is marked."""
    if not row.messages:
        return Content.assemble(("     text  ", "$quiet"), (_short(row.text), TRAINED_STYLE))
    lines = []
    for message in row.messages:
        style = TRAINED_STYLE if message["role"] == "assistant" else ""
        lines.append(
            Content.assemble((f"{clean_line(message['role'], 9):>9}  ", "$quiet"), (_short(message["content"]), style))
        )
    return Content("\n").join(lines)


def _short(text: str) -> str:
    shown = clean(text if len(text) <= SHOWN else text[:SHOWN] + " …")
    return shown.replace("\n", "\n" + " " * INDENT)


def is_forced(data: DatasetSpec | None) -> bool:
    """True if it was said how the rows are written."""
    return data is not None and (data.format != AUTO or bool(data.columns))


def way_out(report: DatasetReport, rows: int) -> Content | None:
    """What to press where the rows are of no known format, or of one that cannot be learned; `rows` of any kind."""
    if not rows:
        return Content.styled("! There are no rows in this file.", "$warning")
    words = {
        UNKNOWN: "! These rows are of no known format: press m and say which column holds what.",
        PREFERENCE: "! Preference rows are not learned as such: press m and take the format chosen, or name columns.",
    }
    said = words.get(report.format)
    return Content.styled(said, "$warning") if said else None


def chosen(data: DatasetSpec, choice: Choice) -> DatasetSpec:
    """The data, to be read like this."""
    return data.model_copy(update={"format": choice.format, "columns": choice.columns})
