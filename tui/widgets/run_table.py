"""The list of runs: aligned columns, a filter, one line a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from engine.runs import RunInfo
from engine.text import clean_line
from tui.widgets.columns import cell, line
from tui.widgets.loss_chart import smoothed
from tui.widgets.run_text import age, exact_match, figure, mark_of, next_step, step_text, trend_arrow


@dataclass(frozen=True)
class Column:
    """A column: how wide, and from which width of the list on it is shown (the narrower lists show the rest)."""

    title: str
    width: int
    right: bool = False
    from_width: int = 0


COLUMNS = (
    Column("", 12),
    Column("run", 18),
    Column("model", 20, from_width=100),
    Column("step", 11, right=True),
    Column("loss", 8, right=True),
    Column("eval", 6, right=True, from_width=90),
    Column("exact match", 11, right=True, from_width=112),
    Column("age", 5, right=True, from_width=130),
    Column("next", 0),
)
"""The last one takes what is left."""


NO_MATCH = Content.assemble("no run matches   ", ("esc ", "$primary"), "shows all")


class RunList(OptionList):
    """An option list that also knows vi's keys."""

    BINDINGS = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "first", "First", show=False),
        Binding("G", "last", "Last", show=False),
        Binding("enter", "select", "Open", key_display="⏎"),
    ]


class RunTable(Vertical):
    """The runs that match `filter`; tells which one is highlighted and which one was opened."""

    runs: reactive[Sequence[RunInfo]] = reactive(())
    filter: reactive[str] = reactive("")

    @dataclass
    class Highlighted(Message):
        """The cursor is on a run, or on none."""

        info: RunInfo | None

    @dataclass
    class Opened(Message):
        """Enter was pressed on a run."""

        info: RunInfo

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._shown: list[RunInfo] = []

    def compose(self) -> ComposeResult:
        """Titles and lines."""
        yield Static(id="titles")
        yield RunList(markup=False, id="lines")
        yield Static(NO_MATCH, id="no-match")

    def on_mount(self) -> None:
        """Ages grow by themselves."""
        self.set_interval(10, self._draw)

    @property
    def selected(self) -> RunInfo | None:
        """The run under the cursor."""
        index = self._list.highlighted
        return self._shown[index] if index is not None and index < len(self._shown) else None

    @property
    def shown(self) -> Sequence[RunInfo]:
        """The runs that match."""
        return self._shown

    @property
    def _list(self) -> RunList:
        return self.query_one(RunList)

    def watch_runs(self) -> None:
        """Draw the lines."""
        self._draw()

    def watch_filter(self) -> None:
        """Draw the lines that match."""
        self._draw()

    def on_resize(self, _event: events.Resize) -> None:
        """Other columns may have room."""
        self._draw()

    def _draw(self) -> None:
        if not self.is_mounted:
            return
        before = self.selected
        self._shown = [info for info in self.runs if matches(info, self.filter)]
        columns = visible(self.size.width)
        self.query_one("#titles", Static).update(titles(columns))
        prompts = [row(info, columns) for info in self._shown]
        lines = self._list
        self.query_one("#no-match").display = bool(self.runs) and not self._shown
        lines.display = bool(self._shown) or not self.runs
        names = [option.id for option in lines.options]
        if names == [info.run.name for info in self._shown]:
            for index, prompt in enumerate(prompts):
                lines.replace_option_prompt_at_index(index, prompt)
        else:
            lines.set_options(
                Option(prompt, id=info.run.name) for prompt, info in zip(prompts, self._shown, strict=True)
            )
            self._return_to(before)
        self.post_message(self.Highlighted(self.selected))

    def _return_to(self, before: RunInfo | None) -> None:
        names = [info.run.name for info in self._shown]
        known = before is not None and before.run.name in names
        self._list.highlighted = (names.index(before.run.name) if before and known else 0) if names else None

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """The cursor moved."""
        event.stop()
        self.post_message(self.Highlighted(self.selected))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """A line was opened."""
        event.stop()
        if self.selected is not None:
            self.post_message(self.Opened(self.selected))


def matches(info: RunInfo, wanted: str) -> bool:
    """True if each word of the filter is in the run's name, model or status."""
    model = info.plan.preset.name if info.plan else ""
    text = f"{info.run.name} {model} {mark_of(info.state, info.status).word}".lower()
    return all(word in text for word in wanted.lower().split())


def visible(width: int) -> list[Column]:
    """The columns that a list of so many cells shows, the last one as wide as what is left."""
    shown = [column for column in COLUMNS if column.from_width <= width]
    used = sum(column.width for column in shown[:-1]) + 2 * (len(shown) - 1) + 2 + 1  # gaps, padding, scrollbar
    return [*shown[:-1], Column(shown[-1].title, max(width - used, 0))]


def titles(columns: Sequence[Column]) -> Content:
    """The line above the list."""
    return line(Content(""), *(cell(c.title, c.width, "$quiet", c.right) for c in columns), gap=2).rstrip()[1:]


def row(info: RunInfo, columns: Sequence[Column]) -> Content:
    """One run."""
    values = _values(info)
    return line(*(cell(values[c.title], c.width, right=c.right) for c in columns))


def _values(info: RunInfo) -> dict[str, Content | str]:
    state = info.state
    loss = figure(smoothed(state.steps), 3)
    best = state.best_eval
    return {
        "": mark_of(state, info.status).content(),
        "run": clean_line(info.plan.slug) if info.plan else info.name,
        "model": clean_line(info.plan.preset.name) if info.plan else "",
        "step": step_text(state, info.plan),
        "loss": f"{loss} {trend_arrow(state)}".rstrip(),
        "eval": figure(best.loss, 3) if best else "",
        "exact match": exact_match(state),
        "age": age(state.last_t or (info.plan.created_t if info.plan else 0.0)),
        "next": Content.styled(next_step(info), "$quiet"),
    }
