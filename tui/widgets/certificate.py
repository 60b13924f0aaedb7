"""The certificate as a table: a line for each comparison, and what to do about those that failed."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import RenderResult
from textual.content import Content
from textual.geometry import Size
from textual.reactive import reactive
from textual.widget import Widget

from engine.events import Check
from tui.widgets.columns import cell, line

WIDE = 100
"""From this width on a comparison takes one line."""


class Certificate(Widget):
    """One line per check: passed or not, what was compared, figure, limit."""

    DEFAULT_CSS = "Certificate { height: auto; }"

    checks: reactive[Sequence[Check]] = reactive((), layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's
        """As many lines as it takes."""
        return len(self._lines(width))

    def render(self) -> RenderResult:
        """The table."""
        return Content("\n").join(self._lines(self.content_size.width))

    def _lines(self, width: int) -> list[Content]:
        if not self.checks:
            return [Content.styled("  made after the GGUF files: proof that they are what was trained", "$quiet")]
        draw = _wide if width >= WIDE else _narrow
        heading = _heading(self.checks, width) if width >= WIDE else []
        return [*heading, *(row for check in self.checks for row in draw(check, self.checks, width))]


def _mark(check: Check) -> tuple[str, str]:
    return ("✓ ", "$success") if check.passed else ("✗ ", "$error")


def _widths(checks: Sequence[Check], width: int) -> tuple[int, int, int, int, int]:
    """Columns of form, title, compared, figure, limit; the widest gives way."""
    form = max(len(check.form) for check in checks)
    title = min(max(len(check.title) for check in checks), 34)
    rest = width - 2 - form - title - 4 * 2
    figure = min(max(len(check.figure) for check in checks), rest // 3)
    limit = min(max(len(check.limit) for check in checks), rest - figure - 12)
    return form, title, rest - figure - limit, figure, limit


def _heading(checks: Sequence[Check], width: int) -> list[Content]:
    form, title, compared, figure, limit = _widths(checks, width)
    names = ("file", "what is proved", "compared", "figure", "limit")
    cells = zip(names, (form, title, compared, figure, limit), strict=True)
    return [Content.assemble("  ", line(*(cell(name, wide, "$quiet") for name, wide in cells)))]


def _wide(check: Check, checks: Sequence[Check], width: int) -> list[Content]:
    form, title, compared, figure, limit = _widths(checks, width)
    text = line(
        cell(check.form, form),
        cell(check.title, title, "bold"),
        cell(check.compared, compared, "$quiet"),
        cell(check.figure, figure, "" if check.passed else "$error"),
        cell(check.limit, limit, "$quiet"),
    )
    return [Content.assemble(_mark(check), text), *_remedy(check, width)]


def _narrow(check: Check, checks: Sequence[Check], width: int) -> list[Content]:
    form = max(len(each.form) for each in checks)
    figure = Content.styled(check.figure, "" if check.passed else "$error")
    title = cell(check.title, max(width - 2 - form - figure.cell_length - 4, 12), "bold")
    first = Content.assemble(_mark(check), line(cell(check.form, form), title, figure))
    limit = f"limit {check.limit}"
    second = cell(f"{check.compared} · {limit}", max(width - form - 4, 0), "$quiet")
    return [first.truncate(width, ellipsis=True), Content.assemble(" " * (form + 4), second), *_remedy(check, width)]


def _remedy(check: Check, width: int) -> list[Content]:
    if check.passed or not check.remedy:
        return []
    arrow = Content.assemble(("    → ", "$primary"))
    wrapped = Content(check.remedy).wrap(max(width - 6, 10))
    return [Content.assemble(arrow if index == 0 else "      ", part) for index, part in enumerate(wrapped)]
