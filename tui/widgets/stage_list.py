"""The stages of an export with their state, progress, rate and time left; Enter asks for one to run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual import events
from textual.app import RenderResult
from textual.binding import Binding
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from engine.config import StageName
from engine.state import StageState, Status
from engine.text import clean_line
from engine.units import format_bytes, format_duration
from tui.theme import STATUS
from tui.widgets.columns import cell

BAR = 20
INDENT = 13
"""Where a stage's words begin."""


@dataclass(frozen=True)
class StageRow:
    """One stage as it stands."""

    name: StageName
    title: str
    """What it does, in a few words: shown while it has not been started."""
    state: StageState | None = None
    status: Status | None = None
    """Its status, with the lock taken into account; None: never started."""
    result: str = ""
    """What it made."""


class StageList(Widget, can_focus=True):
    """The stages in their order."""

    DEFAULT_CSS = "StageList { height: auto; }"
    BINDINGS = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("enter", "run_stage", "Run again", tooltip="run this stage alone"),
    ]

    rows: reactive[Sequence[StageRow]] = reactive((), layout=True)
    cursor: reactive[int] = reactive(0)
    busy: reactive[bool] = reactive(False)
    """A worker runs: no stage can be started."""
    now: reactive[float] = reactive(0.0)
    """The time, so that what runs shows for how long."""

    class Wanted(Message):
        """A stage is to run, alone."""

        def __init__(self, stage: StageName) -> None:
            super().__init__()
            self.stage = stage

    def get_content_height(self, *_: object) -> int:
        """A line a stage, and one more for the figures of the one that runs."""
        return max(len(self._lines()), 1)

    def render(self) -> RenderResult:
        """Every stage."""
        width = self.content_size.width
        return Content("\n").join([text.truncate(width, ellipsis=True) for _, text in self._lines()])

    def _lines(self) -> list[tuple[int, Content]]:
        """Each line with the index of its stage."""
        lines: list[tuple[int, Content]] = []
        for index, row in enumerate(self.rows):
            here = index == self.cursor and self.has_focus
            cursor = "▸ " if here else "  "
            lines.append((index, Content.assemble((cursor, "$primary"), stage_text(row, self.now))))
            if row.status is Status.RUNNING and row.state is not None and (figures := _figures(row.state)):
                lines.append((index, Content.assemble(" " * INDENT, (figures, "$quiet"))))
        return lines

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """A second worker is not offered."""
        return not (self.busy and action == "run_stage")

    def watch_busy(self) -> None:
        """Other keys are offered."""
        self.refresh_bindings()

    def action_move(self, by: int) -> None:
        """Move the cursor, stopping at the ends."""
        self.cursor = min(max(self.cursor + by, 0), max(len(self.rows) - 1, 0))

    def action_run_stage(self) -> None:
        """Ask for the stage under the cursor."""
        if self.rows:
            self.post_message(self.Wanted(self.rows[self.cursor].name))

    def on_click(self, event: events.Click) -> None:
        """A click puts the cursor on the stage."""
        lines = self._lines()
        if 0 <= event.y < len(lines):
            self.cursor = lines[event.y][0]


def stage_text(row: StageRow, now: float) -> Content:
    """Symbol, name and what there is to say."""
    mark = STATUS[(row.status or Status.QUEUED).value]
    head = Content.assemble((f"{mark.symbol} ", mark.style), cell(row.name, 9, "bold"))
    return Content.assemble(head, _said(row, now))


def _said(row: StageRow, now: float) -> Content:
    state = row.state
    if row.status is Status.RUNNING and state is not None:
        return _running(state, now)
    if row.status is Status.FINISHED and state is not None and state.ended_t is not None:
        took = format_duration(state.ended_t - state.started_t)
        return Content.assemble(row.result or "done", (f"   in {took}", "$quiet"))
    if row.status is Status.FAILED and state is not None and state.failed is not None:
        return Content.styled(f"failed: {clean_line(state.failed.title)}", "$error")
    if row.status is Status.LOST:
        return Content.styled("the process vanished without a word", "$error")
    if row.status is Status.STOPPED:
        return Content.styled("stopped; what was whole is kept", "$warning")
    return Content.styled(row.title, "$quiet")


def _running(state: StageState, now: float) -> Content:
    seen = state.progress
    if seen is None or seen.total <= 0:
        taken = f"   {format_duration(max(now - state.started_t, 0))}" if now > state.started_t > 0 else ""
        return Content.assemble(clean_line(state.phase or "starting"), (taken, "$quiet"))
    share = min(max(seen.done / seen.total, 0.0), 1.0)
    full = round(share * BAR)
    bar = Content.assemble(("▕", "$rule"), ("█" * full, "$primary"), ("░" * (BAR - full), "$rule"), ("▏", "$rule"))
    return Content.assemble(bar, f" {share * 100:3.0f} %  ", clean_line(seen.label))


def _figures(state: StageState) -> str:
    """`3.4 GiB of 4.9 GiB · 81.0 MiB/s · 18 s left`; empty while there is no progress to tell."""
    if state.progress is None or state.progress.total <= 0:
        return ""
    left = f"{format_duration(state.left_s)} left" if state.left_s is not None else ""
    return " · ".join(word for word in (_done(state), _rate(state), left) if word)


def _done(state: StageState) -> str:
    seen = state.progress
    if seen is None:
        return ""
    if seen.unit == "bytes":
        return f"{format_bytes(seen.done)} of {format_bytes(seen.total)}"
    return f"{seen.done:,.0f} of {seen.total:,.0f} {clean_line(seen.unit)}".rstrip()


def _rate(state: StageState) -> str:
    seen = state.progress
    if seen is None or seen.t - state.progress_started_t < 0.5:
        return ""
    rate = seen.done / (seen.t - state.progress_started_t)
    return f"{format_bytes(rate)}/s" if seen.unit == "bytes" else f"{rate:,.1f}/s"
