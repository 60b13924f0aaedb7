"""Whether there are enough rows.

What the field recommends: OpenAI's guide to fine-tuning sees clear improvements from 50 to 100 well-made examples (a
format, a tone); LIMA (Zhou et al., 2023) teaches the manner of an assistant with 1,000; a task of its own takes some
hundreds to some thousands. For classification, see `answers`. For raw text there is no such rule: the smallest corpora
in "Don't Stop Pretraining" (Gururangan et al., 2020) that helped a model adapt to a domain hold some hundred thousand
words, and a book holds about as many.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.datasets.report import Level, Problem

MIN_ROWS = 2
FEW_ROWS = 50
"""Fewer rows than this teach a format at best."""
FEW_TEXT_TOKENS = 100_000
"""Fewer tokens of raw text than this leave a domain as unknown as it was."""

_RECOMMENDED = "50 to 100 rows teach a format or a tone, a task takes some hundreds to some thousands"


def amount_problems(rows: int, eval_rows: int, text_tokens: int | None) -> Iterator[Problem]:
    """Too few rows to learn from or to measure by. `text_tokens`: about how many, if the rows are raw text."""
    if rows < MIN_ROWS:
        yield _few("error", f"{_only(rows)} to learn from", rows, "There is nothing to learn from.")
        return
    if text_tokens is not None and text_tokens < FEW_TEXT_TOKENS:
        title = f"Only about {text_tokens:,} tokens of text to learn from"
        effect = "So little text is learned by heart at best; the model does not come to know its subject."
        remedy = f"Add text: {FEW_TEXT_TOKENS:,} tokens, about a book, are a beginning."
        yield Problem(kind="few-rows", level="warning", title=title, count=rows, effect=effect, remedy=remedy)
    elif text_tokens is None and rows < FEW_ROWS:
        yield _few("warning", f"{_only(rows)} to learn from", rows, "So few rows are learned by heart at best.")
    if eval_rows == 0:
        yield Problem(
            kind="no-held-out",
            level="warning",
            title="No held-out rows",
            count=0,
            effect="Nothing tells learning from memorizing.",
            remedy="Keep some back: --set data.eval_fraction=0.04. If a share is set already, too many rows ask "
            "the same, and are kept back together or not at all; then name a file: --set data.eval_path=FILE",
        )


def _only(rows: int) -> str:
    return f"Only {rows} {'row' if rows == 1 else 'rows'}"


def _few(level: Level, title: str, rows: int, effect: str) -> Problem:
    remedy = f"Add rows: {_RECOMMENDED}; fewer epochs keep the model from memorizing."
    return Problem(kind="few-rows", level=level, title=title, count=rows, effect=effect, remedy=remedy)
