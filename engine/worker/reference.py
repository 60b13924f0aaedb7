"""What the trained model says, by transformers and peft: the 16-bit base with its adapter unmerged, in fp32.

Nothing of the export (the fold, the converter, llama.cpp) is used here, so that none of its errors can cancel out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.datasets.base import Message, Row
from engine.errors import MissingError
from engine.tokens.mask import Encoded, encode, prompt_ids
from engine.tokens.tokenizer import Tokenizer
from engine.worker.answer import SLACK, Question, ask, inference, questions, stop_tokens
from engine.worker.context import Context
from engine.worker.distribution import log_softmax, mean_kl
from engine.worker.heldout import loss, read_rows
from engine.worker.model import Device, load_tokenizer, release
from engine.worker.unmerged import load

CHATS = 48
"""Held-out conversations or texts that are compared."""
POSITIONS = 512
"""Positions whose whole distributions are kept: 0.3 GB for a vocabulary of 150,000."""
LONGEST = 1024
"""Tokens of one row that are looked at."""
PREFIX = 8192
"""Characters of a raw text whose tokens are compared."""
ANSWERS = 12
"""Greedy answers that must end by themselves."""


@dataclass(frozen=True)
class Subject:
    """What is compared: held-out rows, as the training's own tokenizer writes them."""

    tokenizer: Tokenizer
    held_out: list[Row]
    prompts: list[list[int]]
    """Token ids up to each conversation's last answer; of a raw text's beginning."""
    rows: list[Encoded]
    """Whole rows with labels, cut to `LONGEST` tokens."""
    positions: list[NDArray[np.intp]]
    """Evenly spread positions in each row."""
    questions: list[Question]
    """To be answered; `expected_tokens` is the same for all, so that each may take `budget` tokens on both sides."""
    end_of_turn: int | None

    @property
    def raw(self) -> bool:
        """True for raw text, which asks nothing: whether an answer ends cannot be tried."""
        return not any(row.messages for row in self.held_out)

    @property
    def unit(self) -> str:
        """What the held-out rows are called."""
        return "texts" if self.raw else "chats"

    @property
    def count(self) -> int:
        """How many positions are compared."""
        return sum(len(places) for places in self.positions)

    @property
    def budget(self) -> int:
        """The most tokens that an answer may take: what `ask` gives a batch, whose questions all expect as many."""
        return max((question.expected_tokens for question in self.questions), default=0) + SLACK


@dataclass(frozen=True)
class Reference:
    """The trained model's answers to the subject, and its base's."""

    tuned: list[NDArray[np.float32]]
    """Log-probabilities (P, V) at each row's positions."""
    base: list[NDArray[np.float32]]
    """The same of the base without adapter."""
    from_base: float
    """Mean KL(base ‖ tuned): how much the training changed."""
    loss: float
    """Held-out loss in nats per trained token."""
    stopped: int
    """How many of the questions' answers ended by themselves."""
    computed: str
    """How and where it was computed."""


def read_subject(context: Context, base: Path) -> Subject:
    """The rows to compare on. Raises `MissingError` if there are no held-out rows."""
    held_out = _read(context.run.heldout)
    folder = context.run.adapter if (context.run.adapter / "tokenizer.json").is_file() else base
    tokenizer = load_tokenizer(context, folder)
    limit = min(LONGEST, context.plan.preset.context_length)
    rows = [_cut(row, limit) for row in encode(tokenizer, held_out)]
    share = max(POSITIONS // len(rows), 8)
    return Subject(
        tokenizer=tokenizer,
        held_out=held_out,
        prompts=[_prompt(tokenizer, row) for row in held_out],
        rows=rows,
        positions=[_spread(len(row.input_ids), share) for row in rows],
        questions=_askable(questions(tokenizer, held_out), limit),
        end_of_turn=tokenizer.end_of_turn,
    )


def _prompt(tokenizer: Tokenizer, row: Row) -> list[int]:
    if row.messages:
        return prompt_ids(tokenizer, before_answer(row.messages), row.tools)
    return tokenizer.ids(row.text[:PREFIX])


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        raise MissingError("There are no held-out rows", f"{path.name} is missing", ("Train first: finetui train",))
    rows = read_rows(path, CHATS)
    if not rows:
        hint = "Train with data.eval_fraction above 0, or name a file as data.eval_path."
        raise MissingError("There are no held-out rows to certify on", f"{path.name} is empty", (hint,))
    return rows


def before_answer(chat: Sequence[Message]) -> list[Message]:
    """The conversation without its last answer."""
    return list(chat[:-1] if len(chat) > 1 and chat[-1]["role"] == "assistant" else chat)


def _cut(row: Encoded, limit: int) -> Encoded:
    return replace(row, input_ids=row.input_ids[:limit], labels=row.labels[:limit])


def _spread(length: int, count: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.intp))


def _askable(found: Sequence[Question], limit: int) -> list[Question]:
    """The first questions that leave room for an answer twice as long as expected; all of them then get the most."""

    def fits(question: Question, tokens: int) -> bool:
        return len(question.input_ids) + tokens + SLACK < limit

    chosen = [question for question in found if fits(question, _generous(question))][:ANSWERS]
    most = max(map(_generous, chosen), default=0)
    return [replace(question, expected_tokens=most) for question in chosen if fits(question, most)]


def _generous(question: Question) -> int:
    return 2 * question.expected_tokens + 32


def measure(context: Context, base: Path, subject: Subject, device: Device) -> Reference:
    """Load the model with its adapter, ask it everything, and let it go. `device`: "cpu" touches no GPU."""
    model, placement = load(context, base, device)
    try:
        context.phase("asking the model as it was trained")
        tuned, plain = [], []
        for number, (row, places) in enumerate(zip(subject.rows, subject.positions, strict=True), 1):
            context.check_stop()
            tuned.append(_log_probabilities(model, row.input_ids, places))
            with model.disable_adapter():
                plain.append(_log_probabilities(model, row.input_ids, places))
            context.progress(number, len(subject.rows), subject.unit, "as trained")
        stops = stop_tokens(subject.tokenizer, model, subject.end_of_turn)
        answers = ask(model, subject.tokenizer, subject.questions, stops) if subject.questions else []
        stopped = sum(answer.stopped for answer in answers)
        trained = [row for row in subject.rows if row.trained]
        heldout_loss = loss(model, trained) if trained else float("nan")
        return Reference(tuned, plain, mean_kl(plain, tuned), heldout_loss, stopped, str(placement))
    finally:
        del model
        release()


def _log_probabilities(model: Any, ids: list[int], places: NDArray[np.intp]) -> NDArray[np.float32]:
    import torch

    with inference(model):
        where = torch.from_numpy(places).to(model.device)
        logits = model(torch.tensor([ids], device=model.device), logits_to_keep=where, use_cache=False).logits[0]
    return log_softmax(logits.float().cpu().numpy())
