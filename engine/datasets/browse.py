"""What the row browser asks of a file that was scanned, or is being scanned: a row, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from engine.config import Preset
from engine.datasets import show
from engine.datasets.base import Row, Skipped, Unusable
from engine.datasets.near import NEAR, Twin
from engine.datasets.readers import Record
from engine.datasets.report import Piece, ShownRow
from engine.datasets.reread import Reread
from engine.datasets.rows import parse
from engine.datasets.tokens import TOKEN_KINDS, is_huge
from engine.errors import DataError, MissingError
from engine.text import clean_line
from engine.tokens.find import tokenizer_of
from engine.tokens.tokenizer import Tokenizer
from engine.units import format_share


class Words:
    """A preset's tokenizer, loaded when it is first wanted; or why there is none."""

    def __init__(self, preset: Preset | None) -> None:
        self.preset = preset
        self._fault = ""

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """None without a preset, if its model is not on this machine, or if its files are damaged."""
        try:
            return tokenizer_of(self.preset) if self.preset else None
        except MissingError as error:
            self._fault = clean_line(str(error), 400)
            return None

    @property
    def missing(self) -> str:
        """Why there is no tokenizer; empty if there is one, or no model was chosen."""
        if self.preset is None or self.tokenizer is not None:
            return ""
        return self._fault or f"the tokenizer of {self.preset.title} is not on this machine yet"


class Browser:
    """Shows rows of one file."""

    def __init__(self, rows: Reread, words: Words) -> None:
        self._rows = rows
        self._words = words
        self.twins: Mapping[int, Twin] = {}
        """The near duplicates, once they are known."""

    def row(self, at: int, max_length: int | None = None) -> ShownRow:
        """The row with this number, one that cannot be used too. Raises `DataError` if the file changed.

        `max_length`: where it is cut, instead of the preset's.
        """
        record = self._rows.record(at)
        try:
            row = parse(record, self._rows.format)
        except Unusable as bad:
            said = f"{bad.fault.one}: {clean_line(bad.detail)}" if bad.detail else bad.fault.one
            return self._unusable(at, record, said, "as it stands in the file: it cannot be learned from")
        except Skipped as left_out:
            return self._unusable(at, record, f"left out: {left_out.reason}", "as it stands in the file")
        return self._usable(at, row, max_length)

    def _shell(self, at: int, findings: Iterator[str], note: str) -> ShownRow:
        line, place = self._rows.index.line(at), self._rows.place(at)
        return ShownRow(index=at, line=line, place=place, findings=tuple(findings), note=note)

    def _unusable(self, at: int, record: Record, said: str, note: str) -> ShownRow:
        pieces = (Piece(text=show.raw(self._rows, record), trained=False),)
        return self._shell(at, iter((said,)), note).model_copy(update={"pieces": pieces})

    def _usable(self, at: int, row: Row, max_length: int | None) -> ShownRow:
        tokenizer, preset = self._words.tokenizer, self._words.preset
        refused, why = "", self._words.missing
        if preset is None:
            why = "choose a model to see its tokens"
        elif is_huge(row):
            why = "it is too long to be tokenized here"
        elif tokenizer is not None:
            try:
                limit = preset.train.max_length if max_length is None else max_length
                return show.by_tokens(row, tokenizer, limit, self._shell(at, self._findings(at), ""))
            except DataError as error:
                refused = str(error)
        note = ": ".join(filter(None, ("by role", why)))
        shell = self._shell(at, self._findings(at, refused), note)
        return shell.model_copy(update={"pieces": show.by_messages(row)})

    def _findings(self, at: int, refused: str = "") -> Iterator[str]:
        """What is wrong with a row; where more is known of a finding than its kind, that is said."""
        if refused:
            yield refused
        index = self._rows.index
        for kind, said in zip(index.kinds(at), index.findings(at), strict=True):
            twin = self.twins.get(at) if kind == NEAR.kind else None
            if twin is not None:
                place = self._rows.place(twin.row)
                yield f"near duplicate of row {twin.row + 1:,} ({place}): about {format_share(twin.share)} the same"
            elif kind not in TOKEN_KINDS:  # these are found anew, by the limit that is asked for
                yield said
