"""What the trained model says, by transformers and peft: the base with its adapter unmerged, in fp32.

Nothing of the export (the fold, the converter, llama.cpp) is used here, so that none of its errors can cancel out.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from engine.datasets.base import Message
from engine.errors import FitError, MissingError
from engine.units import format_bytes
from engine.worker.answer import Question, ask, inference, questions, stop_tokens
from engine.worker.context import Context
from engine.worker.distribution import log_softmax, mean_kl
from engine.worker.heldout import loss
from engine.worker.model import load_tokenizer
from engine.worker.template import end_of_turn
from engine.worker.tokenize import Encoded, encode, prompt_ids

CHATS = 48
"""Held-out conversations that are compared."""
POSITIONS = 512
"""Positions whose whole distributions are kept: 0.3 GB for a vocabulary of 150,000."""
LONGEST = 1024
"""Tokens of one conversation that are looked at."""
ANSWERS = 12
"""Greedy answers that must end by themselves."""
SMALL = 20_000_000
"""Parameters below which torch computes on one thread: threads that wait for each other are slower than none."""


@dataclass(frozen=True)
class Subject:
    """What is compared: held-out conversations, as the training's own tokenizer writes them."""

    tokenizer: Any
    chats: list[list[Message]]
    prompts: list[list[int]]
    """Token ids up to each conversation's last answer."""
    rows: list[Encoded]
    """Whole conversations with labels, cut to `LONGEST` tokens."""
    positions: list[NDArray[np.intp]]
    """Evenly spread positions in each row."""
    questions: list[Question]
    """To be answered; `expected_tokens` is the most that an answer may take."""
    end_of_turn: int | None

    @property
    def count(self) -> int:
        """How many positions are compared."""
        return sum(len(places) for places in self.positions)


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


def read_subject(context: Context, base: Path) -> Subject:
    """The conversations to compare on. Raises `MissingError` if there are no held-out rows."""
    chats = _read_chats(context.run.heldout)
    folder = context.run.adapter if (context.run.adapter / "tokenizer.json").is_file() else base
    tokenizer = load_tokenizer(folder)
    limit = min(LONGEST, context.plan.preset.context_length)
    rows = [_cut(row, limit) for row in encode(tokenizer, chats)]
    share = max(POSITIONS // len(rows), 8)
    return Subject(
        tokenizer=tokenizer,
        chats=chats,
        prompts=[prompt_ids(tokenizer, before_answer(chat)) for chat in chats],
        rows=rows,
        positions=[_spread(len(row.input_ids), share) for row in rows],
        questions=[_with_room(question, limit) for question in questions(tokenizer, chats)[:ANSWERS]],
        end_of_turn=end_of_turn(folder),
    )


def _read_chats(path: Path) -> list[list[Message]]:
    if not path.is_file():
        raise MissingError("There are no held-out rows", f"{path.name} is missing", ("Train first: finetui train",))
    with path.open(encoding="utf-8") as file:
        chats = [json.loads(line)["messages"] for _, line in zip(range(CHATS), file, strict=False)]
    if not chats:
        hint = "Train with data.eval_fraction above 0, or name a file as data.eval_path."
        raise MissingError("There are no held-out rows to certify on", f"{path.name} is empty", (hint,))
    return chats


def before_answer(chat: Sequence[Message]) -> list[Message]:
    """The conversation without its last answer."""
    return list(chat[:-1] if len(chat) > 1 and chat[-1]["role"] == "assistant" else chat)


def _cut(row: Encoded, limit: int) -> Encoded:
    return replace(row, input_ids=row.input_ids[:limit], labels=row.labels[:limit])


def _spread(length: int, count: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.intp))


def _with_room(question: Question, limit: int) -> Question:
    room = max(limit - len(question.input_ids) - 1, 1)
    return replace(question, expected_tokens=min(2 * question.expected_tokens + 32, room))


def measure(context: Context, base: Path, subject: Subject) -> Reference:
    """Load the model with its adapter, ask it everything, and let it go. Raises `FitError` without memory."""
    model = _load(context, base)
    try:
        context.phase("asking the model as it was trained")
        tuned, plain = [], []
        for number, (row, places) in enumerate(zip(subject.rows, subject.positions, strict=True), 1):
            context.check_stop()
            tuned.append(_log_probabilities(model, row.input_ids, places))
            with model.disable_adapter():
                plain.append(_log_probabilities(model, row.input_ids, places))
            context.progress(number, len(subject.rows), "chats", "as trained")
        stops = stop_tokens(subject.tokenizer, model, subject.end_of_turn)
        answers = ask(model, subject.tokenizer, subject.questions, stops) if subject.questions else []
        stopped = sum(answer.stopped for answer in answers)
        trained = [row for row in subject.rows if row.trained]
        heldout_loss = loss(model, trained) if trained else float("nan")
        return Reference(tuned, plain, mean_kl(plain, tuned), heldout_loss, stopped)
    finally:
        del model
        _release()


def _log_probabilities(model: Any, ids: list[int], places: NDArray[np.intp]) -> NDArray[np.float32]:
    import torch

    with inference(model):
        where = torch.from_numpy(places).to(model.device)
        logits = model(torch.tensor([ids], device=model.device), logits_to_keep=where, use_cache=False).logits[0]
    return log_softmax(logits.float().cpu().numpy())


def _load(context: Context, base: Path) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    needed = 4 * context.plan.preset.parameters
    device = _device(needed)
    if device == "cpu" and context.plan.preset.parameters < SMALL:
        torch.set_num_threads(1)
    context.phase(f"loading the 16-bit base with the adapter, in fp32 on the {'GPU' if device == 'cuda' else 'CPU'}")
    model = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=torch.float32, device_map={"": device}, use_safetensors=True, trust_remote_code=False
    )
    return PeftModel.from_pretrained(model, str(context.run.adapter)).eval()


def _device(needed: int) -> str:
    """Where `needed` bytes of weights fit, with a fifth to spare: the GPU, else the CPU."""
    import torch

    if torch.cuda.is_available() and needed * 1.2 < torch.cuda.mem_get_info()[0]:
        return "cuda"
    available = psutil.virtual_memory().available
    if needed * 1.2 > available:
        raise FitError(
            "The certificate needs more memory than there is",
            f"the model in fp32 takes {format_bytes(needed)}, {format_bytes(available)} of memory are free",
            ("Close other programs, or certify on a machine with more memory: copy the run's folder there.",),
        )
    return "cpu"


def _release() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
