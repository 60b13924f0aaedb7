"""Which characters of a rendered conversation are the assistant's: found by rendering it up to each answer.

Chat templates do not say which of their output the model is to write (only few carry `{% generation %}` marks). But
what comes before an answer is what inference feeds, and a template can be asked for that: the conversation up to
the answer, with the generation prompt. It must be how the whole text begins; the answer starts where it ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from engine.datasets.base import Message, Row
from engine.errors import DataError
from engine.text import clean_line
from engine.tokens.template import STAND_IN, Chat, Tools
from engine.tokens.tokenizer import Tokenizer, shared

Span = tuple[int, int]
"""From where to where, in characters of a text, the end not included."""

TELLING = 32
"""As many of an answer's last characters must be found again where it is said to stand."""

MAX_ANSWERS = 500
"""In one conversation: it is rendered up to each of them, so ten times as many would take a hundred times as long."""


class Found(NamedTuple):
    """A row as text, and what in it is to be learned."""

    text: str
    answers: Sequence[Span] = ()
    """Each assistant's turn, the token that ends it included."""
    injected: Sequence[str] = ()
    """Texts of special tokens that stand in the row's own messages."""
    forged: Sequence[Span] = ()
    """Where they are in `text`."""


def find(tokenizer: Tokenizer, row: Row) -> Found:
    """The row as text. Raises `DataError` if the chat template refuses it, or rewrites what it wrote before."""
    if not row.messages:
        return Found(row.text, injected=tokenizer.control.findall(row.text))
    text, answers = answer_ranges(tokenizer, row.messages, row.tools)
    if not any(map(tokenizer.control.search, _texts(row.messages))):
        return Found(text, answers)
    injected = [token for value in _texts(row.messages) for token in tokenizer.control.findall(value)]
    return Found(text, answers, injected, _forged(tokenizer, row, text))


def answer_ranges(tokenizer: Tokenizer, messages: Chat, tools: Tools = None) -> tuple[str, list[Span]]:
    """The whole text, and each assistant's turn in it, the token that ends the turn included.

    Raises `DataError` if the text does not begin with what inference would feed before an answer, if a turn's end
    cannot be found, or if there are more than `MAX_ANSWERS` of them.
    """
    _refuse_too_many(sum(message["role"] == "assistant" for message in messages))
    whole = tokenizer.render(messages, tools)
    ranges: list[Span] = []
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            begin = _begin(tokenizer, messages[:at], tools, whole)
            if ranges and begin < ranges[-1][1]:
                raise _rewritten(at)
            last = at == len(messages) - 1
            end = _last_end(tokenizer, whole, begin) if last else _end(tokenizer, messages, tools, at, whole, begin)
            ranges.append((begin, max(begin, end)))
    return whole, ranges


def _refuse_too_many(answers: int) -> None:
    if answers > MAX_ANSWERS:
        detail = f"{answers:,}; up to {MAX_ANSWERS:,} are looked for in one row"
        hint = "Split the conversation into several rows: hardly any model reads so much at once."
        raise DataError("The conversation has too many answers", detail, (hint,))


def _begin(tokenizer: Tokenizer, before: Chat, tools: Tools, whole: str) -> int:
    prompt = tokenizer.render(before, tools, prompt=True)
    if whole.startswith(prompt):
        return len(prompt)
    same = shared(prompt, whole)
    raise DataError(
        "The chat template writes a prompt differently once it is answered",
        f"message {len(before) + 1}: the prompt goes on with {clean_line(prompt[same : same + 40])!r}, "
        f"the answered conversation with {clean_line(whole[same : same + 40])!r}",
        ("Keep only the last answer of each conversation, or use another model's template.",),
    )


def _last_end(tokenizer: Tokenizer, text: str, begin: int) -> int:
    """Where the turn ends that a text ends with: behind the first end-of-turn token of what closes it.

    Templates write white space behind that token, and some another token that ends the text (Phi-3): the model has
    stopped before.
    """
    end = closing = len(text.rstrip())
    while found := tokenizer.special_at_end(text[begin:closing]):
        closing = begin + len(text[begin : closing - len(found)].rstrip())
    if tokenizer.end_of_turn is None:
        return end
    turn = tokenizer.special[tokenizer.end_of_turn]
    at = text.find(turn, closing)
    return end if at < 0 else at + len(turn)


def _end(tokenizer: Tokenizer, messages: Chat, tools: Tools, at: int, whole: str, begin: int) -> int:
    """Where a turn ends that others follow.

    What is rendered up to it and with it is how the whole text begins, for most templates. Others write a turn
    differently while it is the newest (Qwen3 drops its thoughts later, and adds an empty one before). There it is
    found from behind: what follows a turn does not depend on what it says, so another answer in its place shows
    how much of the whole text that is.
    """
    through = tokenizer.render(messages[: at + 1], tools)
    if len(through) >= begin and whole.startswith(through):
        return _last_end(tokenizer, through, begin)
    other: Message = {"role": "assistant", "content": f"{STAND_IN} {STAND_IN}"}
    rest = tokenizer.render([*messages[:at], other, *messages[at + 1 :]], tools)[begin:]
    said = len(whole) - shared(whole[begin:][::-1], rest[::-1])
    end = max(begin + len(whole[begin:said].rstrip()), _closed(tokenizer, whole, begin, said, through))
    if _last_words(messages[at]["content"]) not in whole[begin:end]:
        raise _rewritten(at)
    return end


def _closed(tokenizer: Tokenizer, whole: str, begin: int, said: int, through: str) -> int:
    """Where the special token ends that closes a turn which said its last word at `said`; 0 if there is none.

    The token may begin before: where one turn ends with `<|eom_id|>` and another with `<|eot_id|>`, they share their
    last characters. `through`: the turn as the newest one; if that has no such token, then what follows is the next
    turn's.
    """
    closes = next((found for found in tokenizer.control.finditer(whole, begin) if found.end() > said), None)
    if closes is None or whole[said : closes.start()].strip():
        return 0
    return closes.end() if tokenizer.special_at_end(through.rstrip()) else 0


def _last_words(content: str) -> str:
    """Of the last line, since a template may write the lines before it elsewhere: they hold the thought."""
    return content.strip().rpartition("\n")[2][-TELLING:].strip()


def _rewritten(at: int) -> DataError:
    return DataError(
        "The chat template rewrites an earlier answer",
        f"message {at + 1} does not stand in the conversation as it was written",
        ("Split the conversation so that each row ends with the answer to learn.",),
    )


def _texts(value: object) -> list[str]:
    """Every text in a value of JSON."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for inner in value for text in _texts(inner)] if isinstance(value, list) else []


def _forged(tokenizer: Tokenizer, row: Row, text: str) -> list[Span]:
    """Where in the rendered text the row's own special tokens are.

    Seen by rendering the row once more with a stand-in for each of their characters. Empty if the template then
    writes something else: it looked for the token itself.
    """
    masked = tokenizer.render(_masked(row.messages, tokenizer.control), row.tools)
    if len(masked) != len(text):
        return []
    return [found.span() for found in re.finditer(f"{STAND_IN}+", masked) if text[found.start()] != STAND_IN]


def _masked(value: Any, control: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return control.sub(lambda found: STAND_IN * len(found[0]), value)
    if isinstance(value, list):
        return [_masked(inner, control) for inner in value]
    return {key: _masked(inner, control) for key, inner in value.items()} if isinstance(value, dict) else value
