"""One row as the model sees it: what is trained stands between ▐ and ▌, and where `max_length` cuts is a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from engine.datasets.report import Piece, ShownRow

TRAINED_STYLE = "bold underline $tuned"
OPENS, CLOSES = "▐", "▌"
MARK_STYLE = "$tuned"
LEGEND = Content.assemble("trained: ", (OPENS, MARK_STYLE), ("bold, underlined", TRAINED_STYLE), (CLOSES, MARK_STYLE))
BORDER = Content.styled("┄┄ max_length cuts here: what follows is never seen ┄┄", "bold $warning")
MAX_CHARACTERS = 100_000
"""Of one row are drawn; more is neither readable nor quick to wrap."""


class Stretch(NamedTuple):
    """Neighbouring pieces that look the same."""

    text: str
    trained: bool
    special: bool


class MaskView(Static):
    """The row that is chosen."""

    row: reactive[ShownRow | None] = reactive(None, layout=True)

    def render(self) -> RenderResult:
        """The row, or nothing before one is known."""
        return describe_row(self.row) if self.row else Content("")


def describe_row(row: ShownRow) -> Content:
    """What is wrong with the row, then its text, marked; what is cut off is quiet."""
    lines = [Content.assemble(("! ", "$warning"), said) for said in row.findings]
    if row.note:
        lines.append(Content.styled(row.note, "$quiet"))
    text = Content.assemble(*marked(row.pieces[: row.cut]))
    if row.cut is not None:
        lost = "".join(piece.text for piece in row.pieces[row.cut :])
        text = Content.assemble(text, "\n", BORDER, "\n", (lost, "$quiet dim"))
    if row.pieces:
        lines.append(_bounded(text))
    return Content("\n").join(lines)


def marked(pieces: Sequence[Piece]) -> Iterator[tuple[str, str]]:
    """Texts with their styles; each run of trained pieces begins with ▐ and ends with ▌, readable without colour."""
    for trained, run in groupby(stretches(pieces), key=lambda stretch: stretch.trained):
        if trained:
            yield OPENS, MARK_STYLE
        for stretch in run:
            yield stretch.text, _style(stretch)
        if trained:
            yield CLOSES, MARK_STYLE


def stretches(pieces: Sequence[Piece]) -> Iterator[Stretch]:
    """Neighbours that look the same, joined."""
    for (trained, special), group in groupby(pieces, key=lambda piece: (piece.trained, piece.special)):
        yield Stretch("".join(piece.text for piece in group), trained, special)


def _style(stretch: Stretch) -> str:
    if stretch.special:
        return "bold underline $base" if stretch.trained else "$base"
    return TRAINED_STYLE if stretch.trained else ""


def _bounded(text: Content) -> Content:
    more = len(text.plain) - MAX_CHARACTERS
    if more <= 0:
        return text
    return Content.assemble(text[:MAX_CHARACTERS], (f"\n… and {more:,} more characters", "$quiet"))
