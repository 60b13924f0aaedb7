"""Greedy answers on held-out rows, and how many of them are exactly right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from engine.datasets.base import Row
from engine.events import Score
from engine.tokens.mask import answer_ranges, prompt_ids
from engine.tokens.tokenizer import Tokenizer

LONGEST_ANSWER = 256
"""Tokens. A longer expected answer is not asked for: equality of whole pages says nothing, and takes minutes."""

SLACK = 8
"""Tokens that an answer may be longer than the longest expected one before it is cut off."""

BATCH_TOKENS = 8192
"""Prompt and answer tokens in one batch: 1 GiB of keys and values on an 8B model with grouped queries."""

BATCH_ROWS = 32


@dataclass(frozen=True)
class Question:
    """One held-out row, up to its last answer."""

    prompt: str
    """The last message before the answer."""
    input_ids: tuple[int, ...]
    expected: str
    """What the template writes from there to the end of the turn: some begin an answer with an empty thought."""
    expected_tokens: int


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    stopped: bool
    """True if it ended by itself, False if it was cut off."""


def questions(tokenizer: Tokenizer, rows: Sequence[Row], limit: int | None = None) -> list[Question]:
    """The conversations that end with an answer which is short enough to be compared whole.

    None that has more than `limit` tokens with its answer. Raises `DataError` if the template refuses one.
    """
    found = []
    for row in rows:
        chat = row.messages
        if len(chat) < 2 or chat[-1]["role"] != "assistant":
            continue
        text, ranges = answer_ranges(tokenizer, chat, row.tools)
        begin, end = ranges[-1]
        answer = tokenizer.ids(text[begin:end])
        prompt = tuple(prompt_ids(tokenizer, chat[:-1], row.tools))
        if len(answer) <= LONGEST_ANSWER and (limit is None or len(prompt) + len(answer) <= limit):
            found.append(Question(chat[-2]["content"], prompt, said(tokenizer, answer), len(answer)))
    return found


def said(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of an answer, told or expected, without the token that ends it and the white space around it."""
    return tokenizer.decode(ids).strip()


def stop_tokens(tokenizer: Tokenizer, model: Any, end_of_turn: int | None) -> list[int]:
    """The tokens that end an answer: what the model's generation config says, the tokenizer's, and the trained one."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*listed, tokenizer.id_of("eos_token"), end_of_turn] if token is not None})


def ask(
    model: Any,
    tokenizer: Tokenizer,
    asked: Sequence[Question],
    stops: Sequence[int],
    on_progress: Callable[[int], None] = lambda _done: None,
) -> list[Answer]:
    """Greedy answers, in the order of the questions; `on_progress` is told how many there are after each batch."""
    answers: dict[int, Answer] = {}
    for batch in _batches(asked):
        told = _generate(model, tokenizer, [asked[at] for at in batch], stops)
        answers.update(zip(batch, told, strict=True))
        on_progress(len(answers))
    return [answers[at] for at in range(len(asked))]


def _batches(asked: Sequence[Question]) -> Iterator[list[int]]:
    """Indices, sorted by length so that little is padding, in batches of bounded size."""
    batch: list[int] = []
    for at in sorted(range(len(asked)), key=lambda at: len(asked[at].input_ids)):
        width = len(asked[at].input_ids) + LONGEST_ANSWER
        if batch and (len(batch) == BATCH_ROWS or (len(batch) + 1) * width > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _generate(model: Any, tokenizer: Tokenizer, asked: Sequence[Question], stops: Sequence[int]) -> list[Answer]:
    import torch
    from transformers import GenerationConfig

    width = max(len(question.input_ids) for question in asked)
    pad = tokenizer.pad_id if tokenizer.pad_id is not None else stops[0]
    ids = torch.full((len(asked), width), pad)  # (B, T), padded on the left
    mask = torch.zeros_like(ids)
    for row, question in enumerate(asked):
        ids[row, width - len(question.input_ids) :] = torch.tensor(question.input_ids)
        mask[row, width - len(question.input_ids) :] = 1
    config = GenerationConfig(
        max_new_tokens=max(question.expected_tokens for question in asked) + SLACK,
        do_sample=False,
        eos_token_id=list(stops) or None,
        pad_token_id=pad,
        use_cache=True,
    )
    with inference(model):
        out = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )
    return [_answer(tokenizer, row, stops) for row in out[:, width:].tolist()]


def _answer(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[int]) -> Answer:
    end = next((at for at, token in enumerate(ids) if token in stops), None)
    return Answer(said(tokenizer, ids[:end]), end is not None)


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; whatever mode the model was in comes back."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def score(form: str, asked: Sequence[Question], answers: Sequence[Answer]) -> Score:
    """How many answers equal the expected ones, white space around them aside."""
    return Score(
        form=form,
        rows=len(asked),
        exact=sum(answer.text == question.expected for question, answer in zip(asked, answers, strict=True)),
        stopped=sum(answer.stopped for answer in answers),
    )
