"""The second pass of a check: the rows as tokens of the preset's tokenizer; what is cut, lost, and never learned."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from engine.datasets.base import Row
from engine.datasets.findings import Finding, Ledger
from engine.datasets.report import Problem, TokenStats, Verdict
from engine.datasets.reread import characters
from engine.datasets.rowindex import RowIndex
from engine.datasets.unwritten import UNWRITTEN, unwritten
from engine.errors import DataError
from engine.text import clean_line
from engine.tokens.labels import Encoded
from engine.tokens.mask import encode, will_it_stop
from engine.tokens.tally import STRADDLING_LIMIT, Tally
from engine.tokens.tokenizer import Tokenizer
from engine.units import format_share

WIDTH, FINE_WIDTH = 64, 8
"""Tokens to a bin of the histograms, and where all rows are short: what is cut is told exactly at multiples of it."""
SHORT = 4_096
"""Tokens of the longest row, up to which the bins are fine."""
MAX_CHARACTERS = 1_000_000
"""Longer rows are not tokenized here: each of their tokens costs some hundred bytes of memory."""

TOO_LONG = Finding(
    "longer-than-max-length",
    "warning",
    "row is longer than max_length",
    "rows are longer than max_length",
    "What is behind max_length is cut: of an answer that loses its end, the model learns no end.",
    "Raise max_length (it costs memory), or shorten or split these rows.",
)
NOTHING = Finding(
    "nothing-to-learn",
    "warning",
    "row has no token to learn within max_length",
    "rows have no token to learn within max_length",
    "They are left out of training.",
    "Raise max_length, or shorten what comes before the answer.",
)
REFUSED = Finding(
    "refused-by-template",
    "error",
    "row cannot be written by the chat template",
    "rows cannot be written by the chat template",
    "Training would end there.",
    "Correct or delete these rows, or choose another model.",
)
STRADDLING = Finding(
    "straddling-answers",
    "warning",
    "row has an answer that begins inside a token",
    "rows have an answer that begins inside a token",
    "The first token of such an answer is not what inference meets, so it is not learned.",
    "Take the white space from the beginning of the answers.",
)
SPECIAL = Finding(
    "special-tokens-in-text",
    "warning",
    "row holds special tokens of this model in its own text",
    "rows hold special tokens of this model in their own text",
    "Every engine takes them for the frame of the conversation; in the middle of an answer they are not trained.",
    "Delete them, or write them differently, unless they are meant.",
)
HUGE = Finding(
    "huge-rows",
    "warning",
    f"row has more than {MAX_CHARACTERS:,} characters",
    f"rows have more than {MAX_CHARACTERS:,} characters",
    "They are longer than what models read at once. Their tokens are not counted here; training cuts them, and needs "
    "gigabytes of memory to do so.",
    "Split these rows, or delete them.",
)


def limit_of(row: Row, max_length: int) -> int:
    """Where the row is cut: raw text is not, training packs it."""
    return max_length if row.messages else sys.maxsize


def is_huge(row: Row) -> bool:
    """True if it is too long to be tokenized here."""
    return characters(row) > MAX_CHARACTERS


def findings_of(row: Row, each: Encoded, limit: int) -> Iterator[Finding]:
    """What is wrong with a row's tokens, and with what they were made of."""
    yield from unwritten(row, each.text)
    if len(each.input_ids) > limit:
        yield TOO_LONG
    if each.first is None or each.first >= limit:
        yield NOTHING
    if each.straddling:
        yield STRADDLING
    if each.injected:
        yield SPECIAL


TOKEN_KINDS = {finding.kind for finding in (TOO_LONG, NOTHING, REFUSED, STRADDLING, SPECIAL, *UNWRITTEN)}


class TokenPass:
    """Counts the tokens of the rows that it is given, and marks in the index what is wrong with them."""

    def __init__(
        self, tokenizer: Tokenizer, name: str, max_length: int, place: Callable[[int], str], index: RowIndex
    ) -> None:
        """`name`: of the tokenizer, for people; `place`: of a line."""
        self._tokenizer = tokenizer
        self._name = name
        self._max_length = max_length
        self._tally = Tally()
        self._ledger = Ledger(place, index)
        self._way_out = ""
        """What can be done where the template refuses a row, in the words of the first refusal."""

    def add(self, rows: Sequence[tuple[int, Row]]) -> None:
        """Take in rows, each with its place in the index."""
        huge = [at for at, row in rows if is_huge(row)]
        if huge:
            for at, row in rows:
                if at in huge:
                    self._ledger.add(HUGE, at, row.line)
            rows = [(at, row) for at, row in rows if at not in huge]
        try:
            encoded = encode(self._tokenizer, [row for _, row in rows])
        except DataError:
            for at, row in rows:
                self._add_alone(at, row)
            return
        for (at, row), each in zip(rows, encoded, strict=True):
            self._count(at, row, each)

    def _add_alone(self, at: int, row: Row) -> None:
        try:
            each = encode(self._tokenizer, [row])[0]
        except DataError as error:
            said = ": ".join(filter(None, (error.title, error.detail)))
            self._way_out = self._way_out or " ".join(error.hints)
            self._ledger.add(REFUSED, at, row.line, said)
            return
        self._count(at, row, each)

    def _count(self, at: int, row: Row, each: Encoded) -> None:
        limit = limit_of(row, self._max_length)
        self._tally.add(each, limit)
        for finding in findings_of(row, each, limit):
            self._ledger.add(finding, at, row.line)

    @property
    def rows(self) -> int:
        """Rows tokenized so far."""
        return self._tally.rows

    def stats(self, of_rows: int) -> TokenStats:
        """What is known so far; `of_rows`: rows that there are to learn from."""
        tally = self._tally
        width = FINE_WIDTH if tally.longest <= SHORT else WIDTH
        return TokenStats(
            tokenizer=self._name,
            rows=tally.rows,
            of_rows=max(of_rows, tally.rows),
            max_length=self._max_length,
            tokens=tally.all_tokens,
            trained=tally.all_trained,
            longest=tally.longest,
            median=tally.percentile(0.5),
            p95=tally.percentile(0.95),
            truncated=tally.truncated,
            lost=tally.lost,
            dropped=tally.dropped,
            width=width,
            lengths=tally.rows_by_length(width),
            tokens_at=tally.tokens_at(width),
            trained_at=tally.trained_at(width),
            firsts=tally.rows_by_first(width),
            verdicts=tuple(
                Verdict(level=level, title=title, detail=detail)
                for level, title, detail in (will_it_stop(self._tokenizer, tally) if tally.answers else ())
            ),
        )

    def problems(self, stats: TokenStats) -> list[Problem]:
        """What was found so far, with this preset's figures."""
        return [problem.model_copy(update=self._exact(problem, stats)) for problem in self._ledger.problems()]

    def _exact(self, problem: Problem, stats: TokenStats) -> dict[str, str]:
        """What is said anew of a finding, knowing all that was counted."""
        tally, every = self._tally, stats.rows >= stats.of_rows
        title = problem.title.replace("max_length", f"max_length {self._max_length:,}")
        if not every and problem.kind != HUGE.kind:
            title += f" (of {stats.rows:,} rows that were tokenized)"
        match problem.kind:
            case TOO_LONG.kind:
                cut, share = tally.all_tokens - tally.tokens, format_share(tally.lost / max(tally.all_trained, 1))
                figures = f"{cut:,} tokens are lost, {tally.lost:,} of them trained ({share} of all that are)."
                return {"title": title, "effect": f"{figures} {problem.effect}"}
            case NOTHING.kind if every and not tally.trained:
                return {"title": title, "level": "error", "effect": "There is nothing to learn in the data."}
            case STRADDLING.kind if every and tally.straddling > STRADDLING_LIMIT * tally.answers:
                return {"title": title, "level": "error", "effect": f"{problem.effect} There are too many to train."}
            case REFUSED.kind:
                return {"title": title, "remedy": self._way_out or problem.remedy}
            case SPECIAL.kind:
                most = ", ".join(f"{clean_line(text)} ({count:,})" for text, count in tally.injected.most_common(3))
                return {"title": title, "effect": f"{most}. {problem.effect}"}
        return {"title": title}
