"""Text that was decoded wrongly: "fÃ¼r" for "für", and characters that are lost already (U+FFFD)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from engine.datasets.findings import SLICE, Block, Finding, Ledger, slices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOJIBAKE = Finding(
    "mojibake",
    "warning",
    "row was decoded wrongly (fÃ¼r for für)",
    "rows were decoded wrongly (fÃ¼r for für)",
    "The model learns to write these characters.",
    "Write a repaired copy: finetui check DATA --fix OUT.jsonl",
)
LOST = Finding(
    "lost-characters",
    "warning",
    "row has lost characters (\ufffd)",
    "rows have lost characters (\ufffd)",
    "The model learns to write \ufffd where a letter belongs.",
    "Make the file anew from its source, read in the right encoding: what is lost cannot be repaired here.",
)

_OLD_FIRST = "┬├─┼═╨╤ΓΦ√≈∆¬"
"""First bytes of UTF-8 in the encodings of DOS (437) and of old Macs, which ftfy's list leaves out."""

_FIRST, _NEXT, _OLD, _LATIN, _SPACE, _CONTROL, _HIGH = (1 << bit for bit in range(7))


class Encoding:
    """Looks at text that is not ASCII only."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def see(self, block: Block) -> None:
        """Look for wrongly decoded text."""
        if block.text.isascii():
            return
        if "\ufffd" in block.text:
            self._note(LOST, block, [place for place, text in enumerate(block.texts) if "\ufffd" in text])
        places = suspicious(block.text)
        if len(places):
            self._note(MOJIBAKE, block, _wrong_rows(block, places))

    def _note(self, finding: Finding, block: Block, places: list[int]) -> None:
        for place in places:
            self._ledger.add(finding, block.at[place], block.rows[place].line)


def _wrong_rows(block: Block, places: NDArray[np.intp]) -> list[int]:
    """Those rows with a part that can be repaired, given where the block's text is suspicious."""
    import numpy as np

    ends = np.cumsum([len(part) + 1 for part in block.parts])
    parts = np.unique(np.searchsorted(ends, places, side="right")).tolist()
    wrong = [part for part in parts if repaired(block.parts[part]) != block.parts[part]]
    rows: list[int] = np.unique(np.searchsorted(np.cumsum(block.sizes), wrong, side="right")).tolist()
    return rows


def repaired(text: str) -> str:
    """The text as it was meant; the same text if nothing is wrong with it. What is repaired needs no second repair.

    ftfy judges (its heuristic of characters that do not stand beside each other in any language) and repairs.
    """
    if text.isascii() or not len(suspicious(text)):
        return text
    import ftfy

    return "".join(map(ftfy.fix_encoding, _pieces(text)))


def _pieces(text: str) -> Iterator[str]:
    """A long text in pieces that end with a word: ftfy holds several copies of what it repairs."""
    start = 0
    while start < len(text):
        end = start + SLICE
        if end < len(text):
            end = text.rfind(" ", start + SLICE // 2, end) + 1 or end
        yield text[start:end]
        start = end


def suspicious(text: str) -> NDArray[np.intp]:
    """Where a text may have been decoded wrongly; it can be told twice of a place."""
    import numpy as np

    return np.concatenate([start + _suspicious(part) for start, part in slices(text, overlap=1)])


def _suspicious(text: str) -> NDArray[np.intp]:
    """Where a text may have been decoded wrongly: a first byte of UTF-8, as seen through a one-byte encoding, and one
    that continues it; or a control character that only a wrong encoding gives.

    ftfy's own search costs 100 ns a character: text in any language but English would scan slowly. This costs 2.
    """
    import numpy as np

    if text.isascii():
        return np.zeros(0, np.intp)
    table = _table()
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.dtype("<u4"))
    marks = table[np.minimum(codes, len(table) - 1)]
    here, behind = marks[:-1], marks[1:]
    pairs = ((here & _FIRST != 0) & (behind & _NEXT != 0)) | ((here & _OLD != 0) & (behind & _HIGH != 0))
    pairs |= (here & _LATIN != 0) & (behind & _SPACE != 0)
    return np.flatnonzero(np.append(pairs, False) | (marks & _CONTROL != 0))


@cache
def _table() -> NDArray[np.uint8]:
    """What each character can be in such a text, by its code; the last entry stands for all behind it."""
    import numpy as np
    from ftfy.chardata import UTF8_CLUES

    kinds = {
        _FIRST: UTF8_CLUES["utf8_first_of_2"] + UTF8_CLUES["utf8_first_of_3"] + UTF8_CLUES["utf8_first_of_4"],
        _NEXT: UTF8_CLUES["utf8_continuation_strict"].replace("\x80-\xbf", "".join(map(chr, range(0x80, 0xC0)))),
        _OLD: _OLD_FIRST + "‚",
        _LATIN: "ÃÂ",
        _SPACE: " ",
        _CONTROL: "".join(map(chr, range(0x80, 0xA0))),
    }
    table = np.zeros(max(map(ord, "".join(kinds.values()))) + 2, np.uint8)
    for kind, characters in kinds.items():
        table[list(map(ord, characters))] |= kind
    table[0x80:] |= _HIGH
    return table
