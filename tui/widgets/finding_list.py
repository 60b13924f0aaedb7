"""What was found in the data, a line each, the worst first; the one under the cursor is told in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from textual import events
from textual.app import RenderResult
from textual.binding import Binding
from textual.content import Content
from textual.geometry import Region, Size
from textual.reactive import reactive
from textual.widget import Widget

from engine.datasets.report import DatasetReport, Problem
from engine.events import Level
from tui.theme import LEVEL
from tui.widgets.columns import cell

ORDER: tuple[Level, ...] = ("error", "warning", "ok")
INDENT = 4
TITLE_SHARE = 0.5
"""Of the width, at most, for the titles; places and effects have the rest."""


class Finding(NamedTuple):
    """One thing to know about the data."""

    level: Level
    title: str
    places: str = ""
    """`support.jsonl:4411, :7020 …`."""
    effect: str = ""
    remedy: str = ""


def findings_of(report: DatasetReport) -> list[Finding]:
    """Problems and the answers to "will it stop?", errors first; that nothing is wrong, once that is known."""
    found = [Finding(p.level, p.title, short_places(p), p.effect, p.remedy) for p in report.problems]
    if report.tokens is not None:
        found += [Finding(verdict.level, verdict.title, "", verdict.detail) for verdict in report.tokens.verdicts]
    if report.complete and not report.problems:
        found.append(Finding("ok", "every row can be learned from"))
    return sorted(found, key=lambda finding: ORDER.index(finding.level))


def short_places(problem: Problem) -> str:
    """`support.jsonl:4411, :7020 …`: the file's name once."""
    words, before = [], ""
    for place in problem.places:
        name, _, line = place.rpartition(":")
        words.append(f":{line}" if name and name == before else place)
        before = name
    more = " …" if problem.count > len(words) > 0 else ""
    return ", ".join(words) + more


class FindingList(Widget, can_focus=True):
    """Up and down choose a finding; above the first is what stands before the list."""

    DEFAULT_CSS = "FindingList { height: auto; }"
    BINDINGS = [
        Binding("up,k", "move(-1)", "Up", show=False, tooltip="the finding above"),
        Binding("down,j", "move(1)", "Down", show=False, tooltip="the finding below"),
    ]

    findings: reactive[Sequence[Finding]] = reactive((), layout=True)
    cursor: reactive[int] = reactive(0, layout=True)

    def watch_findings(self) -> None:
        """The list may have become shorter."""
        self.cursor = min(self.cursor, max(len(self.findings) - 1, 0))

    def watch_cursor(self) -> None:
        """What is chosen is seen, whole if there is room."""
        self.call_after_refresh(self._show_cursor)

    def on_focus(self) -> None:
        """The cursor is drawn."""
        self._show_cursor()

    def _show_cursor(self) -> None:
        blocks = self._blocks(self.size.width)
        top = sum(map(len, blocks[: self.cursor]))
        height = len(blocks[self.cursor]) if blocks else 0
        self.scroll_to_region_of(Region(0, top, 1, height))

    def scroll_to_region_of(self, region: Region) -> None:
        """Scroll what holds this list so that some of its lines are seen."""
        if self.parent is not None and isinstance(self.parent, Widget):
            self.parent.scroll_to_region(region.translate(self.virtual_region.offset), animate=False)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's
        """A line a finding, and those that tell the chosen one in full."""
        return sum(map(len, self._blocks(width)))

    def render(self) -> RenderResult:
        """Every finding."""
        return Content("\n").join([line for block in self._blocks(self.content_size.width) for line in block])

    def _blocks(self, width: int) -> list[list[Content]]:
        titles = max((Content(finding.title).cell_length for finding in self.findings), default=0)
        room = min(titles, int(width * TITLE_SHARE))
        return [
            self._told(finding, width) if index == self.cursor else [self._line(finding, room, width)]
            for index, finding in enumerate(self.findings)
        ]

    def _line(self, finding: Finding, titles: int, width: int) -> Content:
        rest = "   ".join(part for part in (finding.places, finding.effect or finding.remedy) if part)
        mark = LEVEL[finding.level]
        whole = not rest or Content(finding.title).cell_length > titles  # a long title may use what is left
        words = Content(finding.title) if whole else cell(finding.title, titles)
        text = Content.assemble("  ", (f"{mark.symbol} ", mark.style), words, "   ", (rest, "$quiet"))
        return text.truncate(max(width, 0), ellipsis=True)

    def _told(self, finding: Finding, width: int) -> list[Content]:
        mark, pointer = LEVEL[finding.level], "▸ " if self.has_focus else "  "
        head = Content.assemble((finding.title, "bold"), "   ", (finding.places, "$quiet")).rstrip()
        parts = [head, Content.styled(finding.effect, "$quiet")]
        if finding.remedy:
            parts.append(Content.assemble(("→ ", "$primary"), finding.remedy))
        room = max(width - INDENT, 1)
        lines = [line for part in parts if part.cell_length for line in part.wrap(room)]
        first = Content.assemble((pointer, "$primary"), (f"{mark.symbol} ", mark.style), lines[0] if lines else "")
        return [first, *(Content.assemble(" " * INDENT, line) for line in lines[1:])]

    def action_move(self, by: int) -> None:
        """Move the cursor; from the first one up, leave the list."""
        if self.cursor + by < 0:
            self.screen.focus_previous()
        self.cursor = min(max(self.cursor + by, 0), max(len(self.findings) - 1, 0))

    def on_click(self, event: events.Click) -> None:
        """A click puts the cursor on the finding."""
        top = 0
        for index, block in enumerate(self._blocks(self.size.width)):
            top += len(block)
            if event.y < top:
                self.cursor = index
                return
