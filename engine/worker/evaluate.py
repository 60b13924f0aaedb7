"""The stage "eval": the same held-out questions to each form of the model that exists, from base to GGUF."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import Frozen
from engine.datasets.base import Row
from engine.datasets.rows import read_rows
from engine.errors import DataError, MissingError
from engine.events import Score
from engine.text import clean, clean_line
from engine.worker import checkpoint, heldout, model
from engine.worker.answer import LONGEST_ANSWER, SLACK, Answer, Question, ask, said, score, stop_tokens
from engine.worker.context import Context
from engine.worker.gpu_watch import watching
from engine.worker.tokenize import Encoded, Tally, encode_rows

SHOWN = 8
"""Answers of each form that are kept for reading."""


class Told(Frozen):
    """One answer, for reading."""

    prompt: str
    expected: str
    answer: str
    exact: bool


class Form(Frozen):
    """How one form of the model did."""

    name: str
    """base, as trained, or a GGUF file's precision."""
    rows: int
    exact: int
    stopped: int
    loss: float | None = None
    """Held-out loss in nats per trained token; None for a GGUF file."""
    answers: tuple[Told, ...] = ()


class Evaluation(Frozen):
    """The content of `evaluation.json`."""

    version: int = 1
    data: str
    data_sha256: str
    rows: int
    """Rows in the file; not all are asked, see `heldout.askable`."""
    forms: tuple[Form, ...]


@dataclass(frozen=True)
class Exam:
    """What each form is asked."""

    tokenizer: Any
    asked: list[Question]
    encoded: list[Encoded]
    end_of_turn: int | None
    data: str
    """The name of the file, if it does not hold the run's own rows."""


def run(context: Context) -> None:
    """Write `evaluation.json`. Raises `MissingError` without an adapter, `DataError` for rows that cannot be used."""
    if not context.run.adapter.is_dir():
        hints = (f"finetui resume {context.run.name}",)
        raise MissingError("There is no adapter to evaluate", f"{context.run.adapter} does not exist", hints)
    path = Path(context.options.data) if context.options.data else context.run.heldout
    rows = _rows(path)
    exam = _exam(context, rows, path)
    with watching(context):
        forms = list(_hugging_face_forms(context, exam))
        model.release()
        forms += _gguf_forms(context, exam)
    result = Evaluation(data=clean(str(path)), data_sha256=checkpoint.sha256(path), rows=len(rows), forms=tuple(forms))
    # Other rows than the run's own are another question: their scores stand beside, never in place of the run's.
    target = context.run.evaluation_of(path.stem) if context.options.data else context.run.evaluation
    with context.writing(target) as partial:
        partial.write_text(json.dumps(result.model_dump(), indent=2, ensure_ascii=True) + "\n", "utf-8")


def _rows(path: Path) -> list[Row]:
    rows = list(read_rows(path)) if path.is_file() and path.stat().st_size else []
    if not rows:
        hints = ("Name a file of rows with --data.", "Or train with data.eval_fraction above 0.")
        raise DataError("There are no rows to evaluate on", str(path), hints)
    return rows


def _exam(context: Context, rows: Sequence[Row], path: Path) -> Exam:
    context.phase(f"tokenizing {len(rows):,} rows")
    tokenizer = model.load_tokenizer(context.run.adapter)
    tally = Tally()
    batches = encode_rows(tokenizer, rows, context.plan.train.max_length, tally, path.name)
    encoded = [row for batch in batches for row in batch]
    foreign = clean_line(path.name) if context.options.data else ""
    return Exam(tokenizer, heldout.askable(context, tokenizer, rows), encoded, tally.end_of_turn, foreign)


def _hugging_face_forms(context: Context, exam: Exam) -> Iterator[Form]:
    device = model.claim_device(context.plan)
    base = model.load_base(context, model.locate(context), device)
    stops = stop_tokens(exam.tokenizer, base, exam.end_of_turn)
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(base, str(context.run.adapter))
    with tuned.disable_adapter():
        yield _hugging_face_form(context, exam, "base", tuned, stops)
    yield _hugging_face_form(context, exam, "as trained", tuned, stops)


def _hugging_face_form(context: Context, exam: Exam, name: str, subject: Any, stops: Sequence[int]) -> Form:
    told = _teller(context, exam, name)
    loss = heldout.loss(subject, exam.encoded) if exam.encoded else None
    return _form(context, exam, name, ask(subject, exam.tokenizer, exam.asked, stops, told), loss)


def _gguf_forms(context: Context, exam: Exam) -> Iterator[Form]:
    for path in context.run.ggufs:
        name = path.name.removeprefix("model.").removesuffix(".gguf")
        yield _form(context, exam, name, _ask_gguf(path, exam, _teller(context, exam, name)), None)


def _ask_gguf(path: Path, exam: Exam, told: Any) -> list[Answer]:
    from engine.worker.llama import LlamaModel

    longest = max((len(question.input_ids) for question in exam.asked), default=0)
    answers = []
    with LlamaModel(path, context_length=longest + LONGEST_ANSWER + SLACK) as subject:
        for question in exam.asked:
            told_ids = subject.generate(question.input_ids, question.expected_tokens + SLACK)
            answers.append(Answer(said(exam.tokenizer, told_ids.ids), told_ids.stopped))
            told(len(answers))
    return answers


def _teller(context: Context, exam: Exam, name: str) -> Any:
    context.phase(f"answering {len(exam.asked):,} rows ({name})")

    def told(done: int) -> None:
        context.check_stop()
        context.progress(done, len(exam.asked), "rows", f"score {name}")

    return told


def _form(context: Context, exam: Exam, name: str, answers: Sequence[Answer], loss: float | None) -> Form:
    scored: Score = score(name, exam.asked, answers).model_copy(update={"data": exam.data})
    context.emit(scored)
    shown = [
        Told(
            prompt=clean(question.prompt),
            expected=clean(question.expected),
            answer=clean(answer.text),
            exact=answer.text == question.expected,
        )
        for question, answer in zip(exam.asked[:SHOWN], answers, strict=False)
    ]
    return Form(
        name=name, rows=scored.rows, exact=scored.exact, stopped=scored.stopped, loss=loss, answers=tuple(shown)
    )
