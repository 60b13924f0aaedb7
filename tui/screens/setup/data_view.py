"""What is known of the data: figures and findings, the lengths with the limit, and one row; and the keys for all of it.

It holds nothing but what it shows: what a key asks for goes out as a message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Static

from engine.datasets.report import DatasetReport, ShownRow
from tui.widgets.columns import Section
from tui.widgets.data_report import ReportView
from tui.widgets.finding_list import FindingList, findings_of
from tui.widgets.length_histogram import LengthHistogram
from tui.widgets.mask_view import LEGEND, MaskView

Verb = Literal["accept", "fix", "format", "go", "path"]


class RowScroll(VerticalScroll):
    """A long row scrolls; the keys of a list work here too."""

    BINDINGS = [
        Binding("k", "scroll_up", "Up", show=False),
        Binding("j", "scroll_down", "Down", show=False),
    ]


class DataView(Vertical):
    """Three parts, one below the other; the one with the focus scrolls, and every key works in all of them."""

    BINDINGS = [
        Binding("enter", "want('accept')", "Next", tooltip="go on with these data"),
        Binding("left,h", "limit(-1)", "Limit", key_display="←→", tooltip="a shorter max_length"),
        Binding("right,l", "limit(1)", "Longer", show=False, key_display="→", tooltip="a longer max_length"),
        Binding("n", "row(1)", "Row", key_display="n p", tooltip="the next row"),
        Binding("p", "row(-1)", "Row before", show=False, tooltip="the row before"),
        Binding(
            "right_square_bracket",
            "finding(False)",
            "Finding",
            key_display="] [",
            tooltip="the next row with a finding",
        ),
        Binding(
            "left_square_bracket",
            "finding(True)",
            "Finding before",
            show=False,
            key_display="[",
            tooltip="the row with a finding before",
        ),
        Binding("f", "want('fix')", "Fix", tooltip="write a cleaned copy and take it"),
        Binding("g", "ends(False)", "First", show=False, tooltip="the first row"),
        Binding("G", "ends(True)", "Last", show=False, tooltip="the last row"),
        Binding("colon", "want('go')", "Go to", show=False, key_display=":", tooltip="a row by its number"),
        Binding("m", "want('format')", "Format", show=False, tooltip="another format, or which column holds what"),
        Binding("o", "want('path')", "Other data", show=False, tooltip="another file"),
    ]

    report: reactive[DatasetReport | None] = reactive(None, init=False)
    row: reactive[ShownRow | None] = reactive(None, init=False)
    rows: reactive[int] = reactive(0, init=False)
    """How many there are to look at; 0 while that is not known."""
    limit: reactive[int] = reactive(0, init=False)
    """`max_length`; 0 where nothing is cut."""
    cost: reactive[tuple[Content, Content]] = reactive((Content(""), Content("")), init=False)
    """What the limit costs, in rows and in memory, in words."""
    forced: reactive[bool] = reactive(False, init=False)
    """The format was chosen by the person."""
    fixable: reactive[bool] = reactive(False, init=False, bindings=True)

    @dataclass
    class LimitMoved(Message):
        """The limit is to be a step shorter (-1) or longer (1)."""

        by: int

    @dataclass
    class RowWanted(Message):
        """A row, counted from 0, is to be shown."""

        index: int

    @dataclass
    class FindingWanted(Message):
        """The next row with a finding behind or before this one is to be shown."""

        index: int
        back: bool

    @dataclass
    class Wanted(Message):
        """Something that is asked for elsewhere."""

        verb: Verb

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._wanted = 0
        """The row that was asked for last: keys may come faster than rows."""
        self._seeking = False
        """The next row to come is one with a finding, wherever that is."""

    def compose(self) -> ComposeResult:
        """Figures, findings, lengths, the row."""
        yield ReportView(id="report")
        with VerticalScroll(id="findings-scroll", can_focus=False):
            yield FindingList(id="findings")
        with Vertical(id="lengths"):
            yield Section("tokens per row", id="lengths-rule")
            yield LengthHistogram(id="histogram")
            yield Static(id="lengths-cost")
        yield Section(id="row-rule")
        with RowScroll(id="row-scroll"):
            yield MaskView(id="row")

    def on_mount(self) -> None:
        """Nothing is known yet."""
        self._show_lengths()

    def focus_view(self) -> None:
        """The findings take the keys."""
        self.query_one(FindingList).focus()

    def forget(self) -> None:
        """Other data will be shown."""
        self._wanted, self._seeking = 0, False
        self.rows, self.row, self.report = 0, None, None

    # ── what is shown ────────────────────────────────────────────────────────────────────────────────────

    def watch_report(self) -> None:
        """Figures and findings, in place."""
        report = self.report
        self.query_one(ReportView).report = report
        self.query_one(FindingList).findings = findings_of(report) if report else ()
        self._show_lengths()
        self.refresh_bindings()

    def watch_limit(self) -> None:
        """The line moves."""
        self.query_one(LengthHistogram).limit = self.limit
        if self.row is not None:
            self.want_row(self.row.index)  # it is cut elsewhere now

    def watch_cost(self) -> None:
        """On one line if there is room."""
        rows, memory = (part.cell_length for part in self.cost)
        width = self.size.width
        gap = "   " if rows + memory + 3 <= width else "\n" if rows <= width else " · "
        self.query_one("#lengths-cost", Static).update(Content(gap).join(self.cost))

    def watch_row(self) -> None:
        """Another row, from its beginning."""
        if self.row is not None and self._seeking:
            self._wanted, self._seeking = self.row.index, False
        self.query_one(MaskView).row = self.row
        self.query_one(RowScroll).scroll_home(animate=False)
        self._rule()

    def watch_forced(self) -> None:
        """`messages (as you chose)`."""
        self.query_one(ReportView).forced = self.forced

    def watch_rows(self) -> None:
        """`row 12 of 7,512`."""
        self._rule()

    def on_resize(self) -> None:
        """Lines say as much as there is room for."""
        self._rule()
        self.watch_cost()

    def _show_lengths(self) -> None:
        stats = self.report.tokens if self.report else None
        self.query_one("#lengths").display = self.report is not None and (stats is not None or self.report.rows > 0)
        histogram = self.query_one(LengthHistogram)
        histogram.display = stats is not None
        histogram.stats = stats
        if stats is not None:
            words = f"median {stats.median:,} · p95 {stats.p95:,} · longest {stats.longest:,}"
        else:
            words = f"longest row {self.report.longest_characters:,} characters" if self.report else ""
        self.query_one("#lengths-rule", Section).note = Content(words)

    def _rule(self) -> None:
        rule = self.query_one("#row-rule", Section)
        rule.display = self.row is not None
        if self.row is not None:
            room = self.size.width - LEGEND.cell_length - 6
            rule.title, rule.note = row_title(self.row, self.rows, room), LEGEND

    # ── what is asked for ────────────────────────────────────────────────────────────────────────────────

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """On a small screen, the row has more room while it is read."""
        self.set_class(isinstance(event.widget, RowScroll), "-reading")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys without an object are not offered."""
        match action, parameters:
            case "limit", _:
                return self.report is not None and self.report.rows > 0
            case "want", ("fix",):
                return self.fixable
        return True

    def action_limit(self, by: int) -> None:
        """Move the limit."""
        self.post_message(self.LimitMoved(by))

    def action_row(self, by: int) -> None:
        """The next row or the one before, from the one that was asked for last."""
        last = max(self.rows - 1, 0)
        self.want_row(min(max(self._wanted + by, 0), last) if self.rows else max(self._wanted + by, 0))

    def action_ends(self, last: bool) -> None:
        """The first row or the last."""
        if last and not self.rows:
            self.notify("Which row is the last is known once all are read.", markup=False)
            return
        self.want_row(max(self.rows - 1, 0) if last else 0)

    def want_row(self, index: int) -> None:
        """Ask for a row, counted from 0."""
        self._seeking = False
        self._wanted = index
        self.post_message(self.RowWanted(index))

    def action_finding(self, back: bool) -> None:
        """The next row with a finding, or the one before."""
        self._seeking = True
        self.post_message(self.FindingWanted(self._wanted, back))

    def action_want(self, verb: Verb) -> None:
        """Ask for it."""
        self.post_message(self.Wanted(verb))


def row_title(row: ShownRow, rows: int, room: int) -> str:
    """`row 12 of 7,512 · support.jsonl:12 · 390 tokens, 112 trained`, as much of it as there is room for."""
    words = f"row {row.index + 1:,}" + (f" of {rows:,}" if rows else "")
    tokens = f"{row.tokens:,} tokens, {row.trained:,} trained" if row.tokens else ""
    for part in (row.place, tokens):
        if part and len(words) + len(part) + 3 <= room:
            words += f" · {part}"
    return words
