"""Which tokens of an encoded row are trained."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.tokens.answers import Found, Span
from engine.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding

IGNORED = -100
"""The label of a token that is not trained; torch's cross entropy skips it."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as the model sees it; `labels` equal `input_ids` where the token is trained."""

    input_ids: list[int]
    labels: list[int]
    line: int = 0
    """Where the row begins in its file."""
    spans: tuple[Span, ...] = ()
    """What is trained, from which token to which; forged tokens in there have no label."""
    first: int | None = None
    """The position of the first trained token."""
    ends: tuple[int, ...] = ()
    """The trained special token that ends each answer or text; one without it is missing here."""
    answers: int = 0
    """Assistant's turns, or 1 for a row of raw text."""
    straddling: int = 0
    """Answers before which the ids are not those of the prompt alone: a token reaches across the border."""
    injected: tuple[str, ...] = ()
    """Texts of special tokens in the row's own messages."""
    text: str = ""
    """As it was tokenized; there for showing, like `offsets`. Training is given neither."""
    encoding: Encoding | None = field(default=None, repr=False, compare=False)
    raw: bool = False
    """True for a row of raw text."""
    head: int = 0
    """How many of `input_ids` the tokenizer puts in front of a raw text."""

    @property
    def offsets(self) -> list[Span]:
        """From where to where in `text` each token stands; an empty range for what is added around a raw text."""
        inner = [] if self.encoding is None else list(self.encoding.offsets)
        behind = len(self.input_ids) - self.head - len(inner)
        every = [(0, 0)] * self.head + inner + [(len(self.text), len(self.text))] * behind
        return every[: len(self.input_ids)]

    @property
    def ended(self) -> Iterator[int]:
        """Behind which token each answer ends that `ends` has a token for."""
        return (stop for start, stop in self.spans if stop > start and self.input_ids[stop - 1] in self.ends)

    @property
    def trained(self) -> int:
        """How many tokens are trained."""
        return len(self.labels) - self.labels.count(IGNORED)


def label_text(tokenizer: Tokenizer, encoding: Encoding, found: Found, line: int) -> Encoded:
    """A row of raw text: all of it is trained, between what the tokenizer adds and the token that ends a text."""
    head, tail = tokenizer.added
    ids = [*head, *encoding.ids, *tail]
    eos = tokenizer.id_of("eos_token")
    if eos is not None and ids[-1:] != [eos]:
        ids.append(eos)
    ends = () if eos is None else (eos,)
    spans = ((0, len(ids)),)
    return Encoded(ids, ids.copy(), line, spans, 0, ends, 1, injected=tuple(found.injected), raw=True, head=len(head))


def label_chat(tokenizer: Tokenizer, encoding: Encoding, found: Found, line: int) -> Encoded:
    """A conversation: its answers are trained, each with the token that ends it."""
    ids: list[int] = encoding.ids
    special = tokenizer.special
    labels = [IGNORED] * len(ids)
    spans, ends, straddling = [], [], 0
    for begin, end in found.answers:
        start, straddles = _start(tokenizer, encoding, ids, found.text, begin)
        stop = max(start, _token_at(encoding, end))
        labels[start:stop] = ids[start:stop]
        spans.append((start, stop))
        straddling += straddles
        if stop > start and ids[stop - 1] in special:
            ends.append(ids[stop - 1])
    if found.forged:
        _leave_out_forged(tokenizer, encoding, found, labels, spans)
    first = next((at for start, stop in spans for at in range(start, stop) if labels[at] != IGNORED), None)
    answers = len(found.answers)
    return Encoded(ids, labels, line, tuple(spans), first, tuple(ends), answers, straddling, tuple(found.injected))


def _start(tokenizer: Tokenizer, encoding: Encoding, ids: list[int], text: str, begin: int) -> tuple[int, bool]:
    """The first token of the answer that begins at character `begin`, and whether one reaches across its beginning.

    What inference feeds ends there, and its ids must be those that the whole text has. A special token parts its
    surroundings, so only what follows the last one before the answer has to be tokenized by itself to know.
    """
    at = _token_at(encoding, begin)
    last = at - 1
    while last >= 0 and ids[last] not in tokenizer.special:
        last -= 1
    prompt = tokenizer.tail_ids(text[_first_character(encoding, last) if last >= 0 else 0 : begin])
    last = max(last, 0)
    if ids[last : last + len(prompt)] == prompt:
        return last + len(prompt), False
    return at, True


def _token_at(encoding: Encoding, character: int) -> int:
    """The first token that begins at or after a character; their number if there is none."""
    token = encoding.char_to_token(character)
    if token is None:  # behind the last token, or a character that the normalizer dropped
        return bisect_left(encoding.offsets, character, key=lambda span: span[0])
    return token if _first_character(encoding, token) >= character else token + 1


def _first_character(encoding: Encoding, token: int) -> int:
    span = encoding.token_to_chars(token)
    return span[0] if span else 0


def _leave_out_forged(
    tokenizer: Tokenizer, encoding: Encoding, found: Found, labels: list[int], spans: Sequence[Span]
) -> None:
    """Take the label from what looks like the template's own tokens and stands in the middle of an answer.

    Such a token, typed by whoever wrote the row, is one to every engine that runs the model. Trained, the one that
    ends a turn would teach to stop half-way. Kept are tokens that the template does not use in this conversation
    (they are meant), and those at the very end of an answer (a turn that ends twice still teaches to stop).
    """
    ids, offsets = encoding.ids, encoding.offsets

    def is_forged(at: int) -> bool:
        return ids[at] in tokenizer.special and any(b <= offsets[at][0] < e for b, e in found.forged)

    structure = {token for at, token in enumerate(ids) if token in tokenizer.special and not is_forged(at)}
    for (start, stop), (_, end) in zip(spans, found.answers, strict=True):
        for at in range(start, stop):
            if (
                ids[at] in structure
                and is_forged(at)
                and tokenizer.control.sub("", found.text[offsets[at][1] : end]).strip()
            ):
                labels[at] = IGNORED
