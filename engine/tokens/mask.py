"""Messages → token ids and labels: the one function behind training, its preview and every check.

A conversation is rendered whole by the model's chat template and tokenized once, so that the ids are those that
inference sees. Trained are the tokens of the assistant's turns (`answers.py` finds them), each with the token that
ends it; in a row of raw text, all tokens. Row by row it is verified that the ids before an answer are those of the
prompt alone, which is what inference feeds. Known and wanted differences to masks made by `{% generation %}` marks:
white space after the token that ends a turn is not trained (the model has stopped), and what the template's
generation prompt already holds is not trained (it is fed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from engine.datasets.base import Row
from engine.errors import DataError
from engine.text import clean_line
from engine.tokens.answers import Found, answer_ranges, find
from engine.tokens.labels import IGNORED, Encoded, label_chat, label_text
from engine.tokens.tally import Tally
from engine.tokens.template import Chat, Tools
from engine.tokens.tokenizer import Tokenizer
from engine.tokens.verdicts import Verdict, require_trainable, will_it_stop

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = [
    "IGNORED", "Encoded", "Tally", "Verdict", "answer_ranges", "encode", "encode_rows", "prompt_ids",
    "require_trainable", "will_it_stop",
]  # fmt: skip

BATCH = 256
"""Rows rendered and tokenized at a time: enough for the Rust tokenizer's threads, little to hold."""


def prompt_ids(tokenizer: Tokenizer, messages: Chat, tools: Tools = None) -> list[int]:
    """Token ids of everything up to the answer that comes next. Raises `DataError`."""
    return tokenizer.ids(tokenizer.render(messages, tools, prompt=True))


def encode(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Encoded]:
    """Each row as ids and labels, whole, with its text and where in it each token stands. Raises `DataError`."""
    found = [find(tokenizer, row) for row in rows]
    encodings = tokenizer.encode([one.text for one in found])
    labelled = map(_label, [tokenizer] * len(rows), rows, found, encodings)
    return [
        replace(encoded, text=one.text, encoding=encoding)
        for encoded, encoding, one in zip(labelled, encodings, found, strict=True)
    ]


def _label(tokenizer: Tokenizer, row: Row, found: Found, encoding: Encoding) -> Encoded:
    return (label_chat if row.messages else label_text)(tokenizer, encoding, found, row.line)


def encode_rows(
    tokenizer: Tokenizer,
    rows: Iterable[Row],
    max_length: int,
    tally: Tally,
    file: str,
    on_progress: Callable[[int], None] = lambda _done: None,
) -> Iterator[list[Encoded]]:
    """The rows in batches, cut to `max_length` tokens, without those that then have nothing to learn.

    Rows are taken as they are wanted, one batch ahead: memory is bounded. What was cut and dropped is counted in
    `tally`; `on_progress` is told how many rows are done. Raises `DataError` naming file and line.
    """
    done = 0
    for batch, found, encodings in _tokenized(tokenizer, rows, file):
        labelled = map(_label, [tokenizer] * len(batch), batch, found, encodings)
        yield [_cut(whole, max_length) for whole in labelled if tally.add(whole, max_length, file)]
        done += len(batch)
        on_progress(done)


def _tokenized(
    tokenizer: Tokenizer, rows: Iterable[Row], file: str
) -> Iterator[tuple[list[Row], list[Found], list[Encoding]]]:
    """In batches. The tokenizer works without Python's lock, so the next batch is rendered meanwhile."""
    taken = iter(rows)
    with ThreadPoolExecutor(1) as beside:
        ahead: tuple[list[Row], list[Found], Future[list[Encoding]]] | None = None
        while batch := list(islice(taken, BATCH)):
            found = [_find(tokenizer, row, file) for row in batch]
            work = beside.submit(tokenizer.encode, [one.text for one in found])
            if ahead:
                yield *ahead[:2], ahead[2].result()
            ahead = (batch, found, work)
        if ahead:
            yield *ahead[:2], ahead[2].result()


def _find(tokenizer: Tokenizer, row: Row, file: str) -> Found:
    try:
        return find(tokenizer, row)
    except DataError as error:
        detail = f"{clean_line(file)}:{row.line}: {error.detail}"
        raise DataError(error.title, detail, error.hints) from error


def _cut(whole: Encoded, max_length: int) -> Encoded:
    if len(whole.input_ids) <= max_length:
        return whole
    return replace(whole, input_ids=whole.input_ids[:max_length], labels=whole.labels[:max_length])
