"""A sum of bytes against what there is, as a stacked bar with its parts written below."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.geometry import Size
from textual.reactive import reactive
from textual.widget import Widget

from engine.units import format_bytes
from engine.vram import Budget, Part
from tui.widgets.columns import cell
from tui.widgets.title_bar import spread

FILLS = (("█", "$primary"), ("▓", "$tuned"), ("▒", "$base"), ("█", "$success"), ("▓", "$warning"), ("░", "$quiet"))
"""Each part has a colour and a texture, so that neighbours differ without colour too."""

LABEL = 6
SMALL = 0.02
"""Parts below this share of the whole are summed up as "other"."""


class BudgetBar(Widget):
    """`VRAM ▕████▓▓▒▏   8.8 of 21.4 GiB ✓` and below it, unless it is compact, what each part takes."""

    DEFAULT_CSS = "BudgetBar { height: auto; }"

    budget: reactive[Budget | None] = reactive(None, layout=True)
    label: reactive[str] = reactive("VRAM")

    def __init__(self, compact: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self._compact = compact

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's
        """The bar, and as many lines as the parts take."""
        return len(self._lines(width))

    def render(self) -> RenderResult:
        """The bar and its parts."""
        return Content("\n").join(self._lines(self.content_size.width))

    def _lines(self, width: int) -> list[Content]:
        if self.budget is None:
            return [Content("")]
        verdict = describe(self.budget)
        bar = stacked(self.budget, max(width - LABEL - verdict.cell_length - 4, 8))
        first = spread(Content.assemble(cell(self.label, LABEL, "$quiet"), bar), verdict, width)
        if self._compact:
            return [first]
        return [first, *(Content.assemble(" " * LABEL, text) for text in legend(self.budget, width - LABEL))]


def gathered(budget: Budget) -> tuple[Part, ...]:
    """The parts in their order, small ones summed up at the end."""
    large = [part for part in budget.parts if part.size_bytes >= SMALL * budget.needed_bytes]
    rest = budget.needed_bytes - sum(part.size_bytes for part in large)
    return (*large, Part(name="other", size_bytes=rest)) if rest else tuple(large)


def describe(budget: Budget) -> Content:
    """`8.8 of 21.4 GiB  ✓ 12.6 GiB to spare`."""
    needed = format_bytes(budget.needed_bytes)
    if budget.available_bytes is None:
        return Content.assemble(needed, ("  limit not known", "$quiet"))
    left = budget.available_bytes - budget.needed_bytes
    words = f"✓ {format_bytes(left)} to spare" if budget.fits else f"✗ {format_bytes(-left)} too much"
    mark = (words, "$success" if budget.fits else "$error")
    return Content.assemble(needed, (" of ", "$quiet"), format_bytes(budget.available_bytes), "  ", mark)


def stacked(budget: Budget, width: int) -> Content:
    """The bar, `width` cells inside its ends; full is what there is, or what is needed where that is more."""
    whole = max(budget.needed_bytes, budget.available_bytes or 0, 1)
    pieces: list[Content | tuple[str, str]] = [("▕", "$rule")]
    at = 0
    seen = 0
    for index, part in enumerate(gathered(budget)):
        seen += part.size_bytes
        end = round(seen / whole * width)
        symbol, style = FILLS[index % len(FILLS)]
        pieces.append((symbol * (end - at), style))
        at = end
    pieces += [(" " * (width - at), ""), ("▏", "$rule")]
    return Content.assemble(*pieces)


def legend(budget: Budget, width: int) -> list[Content]:
    """`█ weights 5.6 GiB  ▓ activations 1.9 GiB`, on as many lines as it takes."""
    lines: list[Content] = []
    for index, part in enumerate(gathered(budget)):
        symbol, style = FILLS[index % len(FILLS)]
        item = Content.assemble((f"{symbol} ", style), (f"{part.name} ", "$quiet"), format_bytes(part.size_bytes))
        if lines and lines[-1].cell_length + 3 + item.cell_length <= width:
            lines[-1] = Content.assemble(lines[-1], "   ", item)
        else:
            lines.append(item)
    return lines
