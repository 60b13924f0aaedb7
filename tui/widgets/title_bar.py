"""The first line of each screen: where one is, and what matters most, with a thin rule below."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget


class TitleBar(Widget):
    """A line with a left and a right part; where both do not fit, the left one is cut."""

    left: reactive[Content] = reactive(Content(""))
    right: reactive[Content] = reactive(Content(""))

    def __init__(self, left: Content | None = None, right: Content | None = None) -> None:
        super().__init__()
        self.set_reactive(TitleBar.left, left or Content(""))
        self.set_reactive(TitleBar.right, right or Content(""))

    def render(self) -> RenderResult:
        """Both parts on one line."""
        return spread(self.left, self.right, self.content_size.width)


def spread(left: Content, right: Content, width: int) -> Content:
    """`left` at the left end and `right` at the right end of `width` cells; the left part gives way."""
    right = right.truncate(max(width, 0), ellipsis=True)
    room = max(width - right.cell_length - 2, 0)
    if room < 8:  # nothing of the left part would be readable
        return right if right.cell_length else left.truncate(max(width, 0), ellipsis=True)
    left = left.truncate(room, ellipsis=True)
    return Content.assemble(left, " " * (width - left.cell_length - right.cell_length), right)
