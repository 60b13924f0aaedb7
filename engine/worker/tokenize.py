"""Messages → token ids and labels: the one function behind training, its preview and every later check.

A conversation is rendered whole by the tokenizer's own chat template and tokenized once, so that the ids are those
that inference sees. Which characters are an assistant's answer is found by rendering prefixes; a token is trained
if it begins inside such a range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.datasets.base import Message, Row
from engine.errors import DataError
from engine.events import Level
from engine.text import clean_line

IGNORED = -100
"""The label of a token that is not trained; torch's cross entropy skips it."""

BATCH = 256
"""Rows rendered and tokenized at a time: enough for the Rust tokenizer's threads, little to hold."""

Chat = Sequence[Message]
"""The messages of one conversation."""


@dataclass(frozen=True)
class Encoded:
    """One conversation as the model sees it; `labels` equal `input_ids` where the token is trained."""

    input_ids: list[int]
    labels: list[int]
    text: str
    offsets: list[tuple[int, int]]
    """Each token's characters in `text`, from and to."""
    ends: tuple[int, ...] = ()
    """The trained special token that ends each answer; an answer without one is missing here."""
    answers: int = 0
    straddling: int = 0
    """Tokens across the beginning of an answer, which are therefore not trained."""

    @property
    def trained(self) -> int:
        """How many tokens are trained."""
        return sum(label != IGNORED for label in self.labels)


@dataclass
class Tally:
    """What tokenizing a set of rows came to."""

    rows: int = 0
    tokens: int = 0
    trained: int = 0
    longest: int = 0
    """Tokens of the longest row, before anything was cut."""
    truncated: int = 0
    dropped: int = 0
    """Rows without a trained token left after the cut."""
    straddling: int = 0
    answers: int = 0
    ends: dict[int, int] = field(default_factory=dict)
    """How many answers each token ends."""

    @property
    def end_of_turn(self) -> int | None:
        """The token that ends most answers."""
        return max(self.ends, key=lambda token: self.ends[token], default=None)


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The tokens that are no text: those with a role (`eos_token` …) and those marked special in its file."""
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def render(tokenizer: Any, messages: Chat, prompt: bool = False) -> str:
    """The conversation as text by the tokenizer's chat template; `prompt` adds what comes before an answer.

    Raises `DataError` with the template's own words if it refuses the conversation, or if there is no template.
    """
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        raise DataError(
            "The tokenizer has no chat template",
            "so it is not known how this model writes a conversation",
            ("Choose an instruct model of the same family, or put a chat_template.jinja into the model's folder.",),
        )
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))
    except (TemplateError, TypeError) as error:
        raise DataError("The chat template refuses the conversation", clean_line(str(error))) from error


def prompt_ids(tokenizer: Any, messages: Chat) -> list[int]:
    """Token ids of everything up to the answer that comes next."""
    text = render(tokenizer, messages, prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def answer_ranges(tokenizer: Any, messages: Chat) -> tuple[str, list[tuple[int, int]]]:
    """The whole text, and from where to where each assistant's turn goes, end-of-turn token included.

    What is rendered before the turn must be how the whole text begins, and so must what is rendered with it: then
    the turn is what lies between. Templates that drop the reasoning of earlier turns break the second condition;
    there the turn is found as its own content, right after what comes before it. Raises `DataError` otherwise.
    """
    whole = render(tokenizer, messages)
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    return whole, [_turn(tokenizer, messages, at, whole) for at in turns]


def _turn(tokenizer: Any, messages: Chat, at: int, whole: str) -> tuple[int, int]:
    before = render(tokenizer, messages[:at], prompt=True)
    if not whole.startswith(before):
        raise DataError(
            "The chat template writes a prompt differently once it is answered",
            f"message {at + 1}: the conversation does not begin with {clean_line(before[-60:])!r}",
            ("Keep only the last answer of each conversation, or use another model's template.",),
        )
    through = whole if at == len(messages) - 1 else render(tokenizer, messages[: at + 1])
    if whole.startswith(through) and len(through) >= len(before):
        return len(before), len(before) + len(through[len(before) :].rstrip())
    content = messages[at]["content"].strip()
    if not content or not whole.startswith(content, len(before)):
        raise DataError(
            "The chat template rewrites an earlier answer",
            f"message {at + 1} does not stand in the conversation as it was written",
            ("Split the conversation so that each row ends with the answer to learn.",),
        )
    return len(before), _end_of_turn(tokenizer, whole, len(before) + len(content))


def _end_of_turn(tokenizer: Any, whole: str, at: int) -> int:
    """Where the special token directly after position `at` ends; `at` itself if there is none."""
    rest = whole[at:]
    for token in sorted(special_tokens(tokenizer).values(), key=len, reverse=True):
        if rest.startswith(token):
            return at + len(token)
    return at


def encode(tokenizer: Any, chats: Sequence[Chat]) -> list[Encoded]:
    """Each conversation as ids and labels, whole. Raises `DataError`."""
    found = [answer_ranges(tokenizer, chat) for chat in chats]
    return _encode_texts(tokenizer, found)


def _encode_texts(tokenizer: Any, found: Sequence[tuple[str, list[tuple[int, int]]]]) -> list[Encoded]:
    batch = tokenizer(
        [text for text, _ in found], add_special_tokens=False, return_offsets_mapping=True, truncation=False
    )
    special = frozenset(special_tokens(tokenizer))
    return [
        _label(list(ids), [tuple(pair) for pair in offsets], text, ranges, special)
        for (text, ranges), ids, offsets in zip(found, batch["input_ids"], batch["offset_mapping"], strict=True)
    ]


def _label(
    ids: list[int],
    offsets: list[tuple[int, int]],
    text: str,
    ranges: list[tuple[int, int]],
    special: frozenset[int],
) -> Encoded:
    labels = [IGNORED] * len(ids)
    ends: list[int] = []
    straddling = at = 0
    for begin, end in ranges:
        last = None
        while at < len(ids) and offsets[at][0] < end:
            start, stop = offsets[at]
            if start >= begin and stop > start:
                labels[at] = last = ids[at]
            elif stop > begin:
                straddling += 1
            at += 1
        if last in special:
            ends.append(int(last))
    return Encoded(ids, labels, text, offsets, tuple(ends), len(ranges), straddling)


def encode_rows(
    tokenizer: Any,
    rows: Sequence[Row],
    max_length: int,
    tally: Tally,
    file: str,
    on_progress: Callable[[int], None] = lambda _done: None,
) -> Iterator[list[Encoded]]:
    """The rows in batches, cut to `max_length` tokens, without those that then have nothing to learn.

    What was cut and dropped is counted in `tally`; `on_progress` is told how many rows are done. Raises `DataError`
    naming file and line.
    """
    for begin in range(0, len(rows), BATCH):
        batch = rows[begin : begin + BATCH]
        encoded = _encode_texts(tokenizer, [_ranges_of(tokenizer, row, file) for row in batch])
        yield [cut for whole in encoded if (cut := _cut(whole, max_length, tally)) is not None]
        on_progress(begin + len(batch))


def _ranges_of(tokenizer: Any, row: Row, file: str) -> tuple[str, list[tuple[int, int]]]:
    try:
        return answer_ranges(tokenizer, row.messages)
    except DataError as error:
        detail = f"{clean_line(file)}:{row.line}: {error.detail}"
        raise DataError(error.title, detail, error.hints) from error


def _cut(whole: Encoded, max_length: int, tally: Tally) -> Encoded | None:
    tally.rows += 1
    tally.longest = max(tally.longest, len(whole.input_ids))
    tally.truncated += len(whole.input_ids) > max_length
    tally.straddling += whole.straddling
    tally.answers += whole.answers
    for token in whole.ends:
        tally.ends[token] = tally.ends.get(token, 0) + 1
    cut = Encoded(whole.input_ids[:max_length], whole.labels[:max_length], whole.text, whole.offsets[:max_length])
    if not cut.trained:
        tally.dropped += 1
        return None
    tally.tokens += len(cut.input_ids)
    tally.trained += cut.trained
    return cut


def require_trainable(tally: Tally, max_length: int, file: str) -> None:
    """Raise `DataError` if no row has a trained token."""
    if tally.trained:
        return
    longest = f"the longest row has {tally.longest} tokens, {tally.truncated} of {tally.rows} were cut"
    raise DataError(
        "There is nothing to learn in the data",
        f"{clean_line(file)}: no token of an assistant's answer within {max_length} tokens; {longest}",
        ("Raise train.max_length.", "Check with `finetui check` that each row has an answer by the assistant."),
    )


Verdict = tuple[Level, str, str]
"""A finding: level, title, detail."""


def will_it_stop(tokenizer: Any, generation_stops: Sequence[int], tally: Tally) -> list[Verdict]:
    """Whether the tuned model will end its answers by itself, in three findings.

    It does if the token that ends a turn is trained, is not the padding token (which many tools mask out), and is
    one of those at which generation stops (`generation_stops`, the model's generation config).
    """
    end = tally.end_of_turn
    if end is None:
        title = "No end-of-turn token is trained"
        return [("warning", title, "The template writes none after an answer: the model may not stop by itself.")]
    name = clean_line(tokenizer.convert_ids_to_tokens(end))
    without = tally.answers - sum(tally.ends.values())
    found: list[Verdict] = [("ok", f"The end-of-turn token {name} is trained", f"after {tally.answers:,} answers")]
    if without:
        found = [("warning", f"{without:,} of {tally.answers:,} answers end without {name}", "They teach not to stop.")]
    if tokenizer.pad_token_id == end:
        detail = "Training here labels each token by itself, but other tools that mask padding would mask it too."
        found.append(("warning", f"{name} is also the padding token", detail))
    if end in generation_stops:
        found.append(("ok", f"Generation stops at {name}", ""))
    else:
        detail = f"It lists {list(generation_stops)}; token {end} ends the turns of the chat template."
        found.append(("warning", f"The model's generation config does not stop at {name}", detail))
    return found
