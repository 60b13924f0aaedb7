"""The data that were used before: those of the runs, and those that were chosen for one; newest first."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine import runs
from engine.config import DatasetSpec
from engine.datasets.hub import hub_spec
from engine.paths import absolute, home, is_file, partial
from engine.text import clean_line
from tui.widgets.columns import cell, line

MANY = 12
NAME_WIDTH = 32


class Recent(NamedTuple):
    """Data that were used, and when (seconds since 1970)."""

    data: DatasetSpec
    used_t: float


def recent_file() -> Path:
    """Where the chosen data are remembered, JSON."""
    return home() / "recent-data.json"


def remember(data: DatasetSpec) -> None:
    """Put these data in front. What cannot be written is not remembered: nothing hangs on it."""
    kept = [Recent(data, time.time()), *(old for old in _remembered() if old.data.path != data.path)][:MANY]
    text = json.dumps([{"t": each.used_t, "data": each.data.model_dump()} for each in kept], indent=1)
    path = recent_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial(path).write_text(text)
        os.replace(partial(path), path)  # noqa: PTH105 - the pair of names reads better
    except OSError:
        return


def recent_data() -> list[Recent]:
    """What can still be opened, each path once."""
    found: dict[str, Recent] = {}
    for each in sorted([*_remembered(), *_of_runs()], key=lambda each: -each.used_t):
        if hub_spec(each.data.path) or is_file(absolute(each.data.path)):
            found.setdefault(each.data.path, each)
    return list(found.values())[:MANY]


def _remembered() -> list[Recent]:
    try:
        kept = json.loads(recent_file().read_text())
        return [Recent(DatasetSpec.model_validate(each["data"]), float(each["t"])) for each in kept]
    except (OSError, ValueError, TypeError, KeyError, ValidationError):  # none yet, or not one of ours
        return []


def _of_runs() -> Iterator[Recent]:
    for info in runs.list_runs():
        if info.plan is not None:
            yield Recent(info.plan.data, info.plan.created_t)


class RecentList(OptionList):
    """One line for each: its name, how it is written, where it lies."""

    def show(self, recent: Sequence[Recent]) -> None:
        """Show these; with none the list is not there."""
        self.clear_options()
        self.add_options([Option(_line(each)) for each in recent])
        self.highlighted = 0 if recent else None
        self.display = bool(recent)


def _line(recent: Recent) -> Content:
    data, path = recent.data, Path(recent.data.path)
    named = data.source or ("" if path.is_absolute() else data.path)  # a data set of the hub has no folder
    how = "columns" if data.columns else "" if data.format == "auto" else data.format
    when = time.strftime("%d %b %H:%M", time.localtime(recent.used_t))
    return line(
        cell(clean_line(named or path.name), NAME_WIDTH),
        cell(how, 12, "$quiet"),
        cell(when, 12, "$quiet"),
        Content.styled("" if named else clean_line(str(path.parent), 400), "$quiet"),
    )
