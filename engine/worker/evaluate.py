"""The stage "eval": the same held-out questions to each form of the model that exists, from base to GGUF."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import Frozen
from engine.datasets.base import Row
from engine.datasets.rows import read_rows
from engine.datasets.split import read_gold
from engine.errors import DataError, MissingError
from engine.events import Score
from engine.state import GOLD
from engine.text import clean, clean_line
from engine.tokens.tokenizer import Tokenizer
from engine.worker import checkpoint, examples, heldout, model
from engine.worker.answer import LONGEST_ANSWER, SLACK, Answer, Question, ask, said, score, stop_tokens
from engine.worker.context import Context
from engine.worker.gpu_watch import watching
from engine.worker.packing import Example

if TYPE_CHECKING:
    from engine.worker.llama import LlamaModel

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
    """Rows in the file; not all are asked, see `heldout.askable`, and of raw text none."""
    forms: tuple[Form, ...]


@dataclass
class Exam:
    """Rows that each form is asked, and what came of it."""

    file: Path
    rows: int
    asked: list[Question]
    examples: list[Example]
    end_of_turn: int | None
    data: str
    """What scores are told under, if these are not the run's own rows."""
    target: Path
    forms: list[Form] = field(default_factory=list)


def run(context: Context) -> None:
    """Write `evaluation.json`, and `evaluation.gold.json` if the run has gold rows.

    Raises `MissingError` without an adapter, `DataError` for rows that cannot be used.
    """
    if not context.run.adapter.is_dir():
        hints = (f"finetui resume {context.run.name}",)
        raise MissingError("There is no adapter to evaluate", f"{context.run.adapter} does not exist", hints)
    tokenizer = model.load_tokenizer(context, context.run.adapter)
    exams = list(_exams(context, tokenizer))
    with watching(context):
        _ask_hugging_face(context, tokenizer, exams)
        model.release()
        _ask_ggufs(context, tokenizer, [exam for exam in exams if exam.asked])
    for exam in exams:
        _write(context, exam)


def _exams(context: Context, tokenizer: Tokenizer) -> Iterator[Exam]:
    """The rows that were asked for; else the held-out ones and the gold ones.

    Other rows than the run's own are another question: their scores stand beside, never in place of the run's.
    """
    run, data = context.run, context.plan.data
    if context.options.data:
        file = Path(context.options.data)
        yield _exam(context, tokenizer, file, _rows(file), clean_line(file.name), run.evaluation_of(file.stem))
        return
    if (run.heldout.is_file() and run.heldout.stat().st_size) or not data.gold_path:
        yield _exam(context, tokenizer, run.heldout, _rows(run.heldout), "", run.evaluation)
    if data.gold_path:
        file = Path(data.gold_path)
        rows = list(read_gold(data))
        _look_at_gold(context, file)
        yield _exam(context, tokenizer, file, rows, GOLD, run.evaluation_of(GOLD))


def _rows(path: Path) -> list[Row]:
    rows = list(read_rows(path)) if path.is_file() and path.stat().st_size else []
    if not rows:
        hints = ("Name a file of rows with --data.", "Or train with data.eval_fraction above 0.")
        raise DataError("There are no rows to evaluate on", str(path), hints)
    return rows


def _look_at_gold(context: Context, file: Path) -> None:
    if checkpoint.sha256(file) != context.plan.summary.gold_sha256:
        detail = "What is new in it may have been learned from: only the rows of then are sure not to have been."
        context.finding("warning", "The gold file has changed since the plan was made", detail)


def _exam(context: Context, tokenizer: Tokenizer, file: Path, rows: Sequence[Row], data: str, target: Path) -> Exam:
    found, tally = examples.encode_held_out(context, tokenizer, rows, str(file))
    asked = heldout.askable(context, tokenizer, rows)
    return Exam(file, len(rows), asked, found, tally.end_of_turn, data, target)


def _ask_hugging_face(context: Context, tokenizer: Tokenizer, exams: Sequence[Exam]) -> None:
    device = model.claim_device(context.plan)
    base = model.load_base(context, model.locate(context), device)
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(base, str(context.run.adapter))
    for exam in exams:
        stops = stop_tokens(tokenizer, base, exam.end_of_turn)
        with tuned.disable_adapter():
            _ask_form(context, tokenizer, exam, "base", tuned, stops)
        _ask_form(context, tokenizer, exam, "as trained", tuned, stops)


def _ask_form(
    context: Context, tokenizer: Tokenizer, exam: Exam, name: str, subject: Any, stops: Sequence[int]
) -> None:
    told = _teller(context, exam, name)
    loss = heldout.loss(subject, exam.examples) if exam.examples else None
    _record(context, exam, name, ask(subject, tokenizer, exam.asked, stops, told), loss)


def _ask_ggufs(context: Context, tokenizer: Tokenizer, exams: Sequence[Exam]) -> None:
    if not exams:
        return
    for path in context.run.ggufs:
        name = path.name.removeprefix("model.").removesuffix(".gguf")
        with _gguf(path, exams) as subject:
            for exam in exams:
                answers = _ask_gguf(subject, tokenizer, exam, _teller(context, exam, name))
                _record(context, exam, name, answers, None)


def _gguf(path: Path, exams: Sequence[Exam]) -> LlamaModel:
    from engine.worker.llama import LlamaModel

    longest = max(len(question.input_ids) for exam in exams for question in exam.asked)
    return LlamaModel(path, context_length=longest + LONGEST_ANSWER + SLACK)


def _ask_gguf(subject: LlamaModel, tokenizer: Tokenizer, exam: Exam, told: Callable[[int], None]) -> list[Answer]:
    answers = []
    for question in exam.asked:
        told_ids = subject.generate(question.input_ids, question.expected_tokens + SLACK)
        answers.append(Answer(said(tokenizer, told_ids.ids), told_ids.stopped))
        told(len(answers))
    return answers


def _teller(context: Context, exam: Exam, name: str) -> Callable[[int], None]:
    kind = f"{exam.data} rows" if exam.data else "rows"
    context.phase(f"answering {len(exam.asked):,} {kind} ({name})" if exam.asked else f"measuring the loss ({name})")

    def told(done: int) -> None:
        context.check_stop()
        context.progress(done, len(exam.asked), "rows", f"score {name}")

    return told


def _record(context: Context, exam: Exam, name: str, answers: Sequence[Answer], loss: float | None) -> None:
    scored: Score = score(name, exam.asked, answers).model_copy(update={"data": exam.data})
    if exam.asked:
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
    exam.forms.append(
        Form(name=name, rows=scored.rows, exact=scored.exact, stopped=scored.stopped, loss=loss, answers=tuple(shown))
    )


def _write(context: Context, exam: Exam) -> None:
    result = Evaluation(
        data=clean(str(exam.file)), data_sha256=checkpoint.sha256(exam.file), rows=exam.rows, forms=tuple(exam.forms)
    )
    with context.writing(exam.target) as partial:
        partial.write_text(json.dumps(result.model_dump(), indent=2, ensure_ascii=True) + "\n", "utf-8")
