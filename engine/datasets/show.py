"""A row as the row browser shows it: its tokens and which of them are learned; without a tokenizer, its messages."""

from __future__ import annotations

import json
from collections.abc import Iterator

from engine.datasets.base import Message, Row
from engine.datasets.lines import reading
from engine.datasets.readers import Record
from engine.datasets.report import Piece, ShownRow
from engine.datasets.reread import Reread
from engine.datasets.tokens import findings_of, limit_of
from engine.text import clean
from engine.tokens.labels import IGNORED, Encoded
from engine.tokens.mask import encode
from engine.tokens.tokenizer import Tokenizer

MAX_PIECES = 20_000
"""More tokens of a row are not shown."""
MAX_CHARACTERS = 65_536
"""More of a message is not shown."""
RAW_BYTES = 4_096
"""So much is shown of a row that cannot be read."""


def by_tokens(row: Row, tokenizer: Tokenizer, max_length: int, empty: ShownRow) -> ShownRow:
    """`empty` with the row as the model sees it. Raises `DataError` if the chat template refuses it.

    A piece is a token; characters that several tokens share (an emoji of a byte-level tokenizer) are one piece. Behind
    the cut nothing is trained.
    """
    encoded = encode(tokenizer, [row])[0]
    tokens, limit = len(encoded.input_ids), limit_of(row, max_length)
    said = [finding.one for finding in findings_of(row, encoded, limit)]
    pieces, cut = _pieces(encoded, tokenizer, limit)
    kept = encoded.labels[:limit]
    notes = [
        empty.note,
        f"{tokens - limit:,} tokens behind max_length {limit:,} are cut" if tokens > limit else "",
        f"only the first {MAX_PIECES:,} tokens are shown" if len(pieces) == MAX_PIECES else "",
    ]
    return empty.model_copy(
        update={
            "findings": (*empty.findings, *said),
            "pieces": tuple(pieces),
            "tokens": tokens,
            "trained": len(kept) - kept.count(IGNORED),
            "cut": cut,
            "note": " · ".join(filter(None, notes)),
        }
    )


def _pieces(encoded: Encoded, tokenizer: Tokenizer, limit: int) -> tuple[list[Piece], int | None]:
    """The pieces, and which is the first behind `limit` tokens."""
    pieces: list[Piece] = []
    cut, shown = None, 0
    for number, (token, label, (begin, end)) in enumerate(
        zip(encoded.input_ids, encoded.labels, encoded.offsets, strict=True)
    ):
        if number == limit:
            cut = len(pieces)
        if len(pieces) == MAX_PIECES:
            break
        special, trained = token in tokenizer.special, label != IGNORED and number < limit
        if begin > shown:  # characters that no token stands for
            pieces.append(Piece(text=encoded.text[shown:begin], trained=False))
        if begin == end and special:  # what a tokenizer adds around a text
            pieces.append(Piece(text=tokenizer.name(token), trained=trained, special=True))
        elif end > shown:
            pieces.append(Piece(text=encoded.text[max(begin, shown) : end], trained=trained, special=special))
        shown = max(shown, end)
    return pieces, cut


def by_messages(row: Row) -> tuple[Piece, ...]:
    """The row without a tokenizer: who speaks, and what; an assistant's words are what is learned."""
    if not row.messages:
        return (Piece(text=_begin(row.text), trained=True),)
    return tuple(piece for message in row.messages for piece in _message(message))


def _message(message: Message) -> Iterator[Piece]:
    learned = message["role"] == "assistant"
    yield Piece(text=f"{message['role']}\n", trained=False, special=True)
    calls = json.dumps(message["tool_calls"], ensure_ascii=False) if "tool_calls" in message else ""
    said = filter(None, (message.get("reasoning_content", ""), message["content"], calls))
    yield Piece(text=_begin("\n".join(said)), trained=learned)
    yield Piece(text="\n\n", trained=False)


def _begin(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} …"


def raw(rows: Reread, record: Record) -> str:
    """What stands in the file where a row cannot be used, as far as a screen needs it. Raises `DataError`."""
    if record.value is not None:
        return json.dumps(record.value, ensure_ascii=False, default=repr)[:RAW_BYTES]
    if not rows.reader.by_place:
        return ""
    with reading(rows.path) as file:
        file.seek(record.offset)
        data = file.read(RAW_BYTES)
    text = clean(data.decode("utf-8", "replace"))
    return text.partition("\n")[0] if rows.reader.name == "JSON Lines" else text
