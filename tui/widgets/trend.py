"""One figure with how it came to be: a label, the last value, and a small line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from engine.events import Step
from tui.widgets.series import Series, sparkline
from tui.widgets.title_bar import spread


class Trend(Widget):
    """`figure` of each step; `show` writes the last value. On one line, or with a line of its own below."""

    steps: reactive[Sequence[Step]] = reactive((), always_update=True, repaint=False)

    def __init__(
        self, label: str, figure: Callable[[Step], float | None], show: Callable[[float], str], *, id: str
    ) -> None:
        super().__init__(id=id)
        self._label, self._figure, self._show = label, figure, show
        self._series = Series()
        self._count, self._newest = 0, None

    _newest: Step | None

    def watch_steps(self, steps: Sequence[Step]) -> None:
        """Add what is new; draw anew after a resume."""
        if self._count and (len(steps) < self._count or steps[self._count - 1] is not self._newest):
            self._series, self._count = Series(), 0
        for step in steps[self._count :]:
            value = self._figure(step)
            if value is not None:
                self._series.append(step.step, value)
        self._count, self._newest = len(steps), steps[-1] if steps else None
        self.refresh()

    def render(self) -> RenderResult:
        """Label and value, and the line beside or below."""
        width, height = self.content_size
        last = self._series.last
        label = Content.styled(self._label, "$quiet")
        value = Content("–" if last is None else self._show(last))
        if height < 2:
            head = Content.assemble(label.truncate(14, ellipsis=True, pad=True), " ", value.right(9))
            room = width - head.cell_length - 2
            line = sparkline(self._series, room)[0] if room > 3 else ""
            return Content.assemble(head, ("  " + line, "$tuned"))
        lines = [Content.styled(line, "$tuned") for line in sparkline(self._series, width, height - 1)]
        return Content("\n").join([spread(label, value, width), *lines])
