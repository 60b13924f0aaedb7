"""Lines of aligned columns, and the rule that stands above a part of a screen."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget


def cell(text: str | Content, width: int, style: str = "", right: bool = False) -> Content:
    """The text in exactly `width` cells: cut with an ellipsis, or padded; never read as markup."""
    content = text if isinstance(text, Content) else Content(text)
    if style:
        content = content.stylize(style)
    content = content.truncate(max(width, 0), ellipsis=True)
    gap = " " * max(width - content.cell_length, 0)
    return Content.assemble(gap, content) if right else Content.assemble(content, gap)


def line(*cells: Content, gap: int = 2) -> Content:
    """Cells on one line."""
    return Content(" " * gap).join(cells)


class Section(Widget):
    """A thin rule with a title in it, and a word at its right end: `─ certificate ───────── 5 of 5 ─`."""

    DEFAULT_CSS = "Section { height: 1; color: $quiet; }"

    title: reactive[str] = reactive("")
    note: reactive[Content] = reactive(Content(""))

    def __init__(self, title: str = "", note: str | Content = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self.set_reactive(Section.title, title)
        self.set_reactive(Section.note, note if isinstance(note, Content) else Content(note))

    def render(self) -> RenderResult:
        """The rule, as wide as there is room."""
        width = self.content_size.width
        left = Content.assemble(("─ ", "$rule"), self.title, " ")
        right = Content.assemble(" ", self.note, (" ─", "$rule")) if self.note.cell_length else Content("")
        right = right.truncate(max(width - left.cell_length - 1, 0), ellipsis=True)
        fill = max(width - left.cell_length - right.cell_length, 0)
        return Content.assemble(left, ("─" * fill, "$rule"), right)
