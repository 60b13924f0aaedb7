"""Scores: exact match, stopping, and the held-out loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.datasets.base import Message, Row
from engine.errors import MissingError
from engine.tokens.mask import IGNORED, encode
from engine.tokens.tokenizer import Tokenizer
from engine.worker import evaluate, heldout, train
from engine.worker.answer import Answer, Question, _answer, ask, questions, score

from .conftest import END, TEMPLATE, MakeContext, MakeRun, colour_rows, events_of, make_tokenizer

THINKING = TEMPLATE.replace(
    "{{ message['content']",
    "{% if loop.last and message['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content']",
)
"""As Qwen3 writes it: an empty thought before the last answer, which the prompt does not have."""


def load(folder: Path) -> tuple[Any, Tokenizer]:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), Tokenizer.load(folder)


def rows_of(chats: Sequence[list[Message]]) -> list[Row]:
    return [Row(line, chat) for line, chat in enumerate(chats, 1)]


def test_the_score_counts_equal_answers_and_those_that_stopped() -> None:
    asked = [Question("a", (1,), "yes", 1), Question("b", (1,), "no", 1)]
    seen = score("base", asked, [Answer("yes", False), Answer("No", True)])
    assert (seen.rows, seen.exact, seen.stopped, seen.exact_match) == (2, 1, 1, 0.5)


def test_the_loss_is_the_mean_over_trained_tokens_whatever_the_batches(tiny_model_dir: Path) -> None:
    tiny, tokenizer = load(tiny_model_dir)
    rows = encode(tokenizer, rows_of([*colour_rows(5), *colour_rows(1, seed=3)]))
    total, count = 0.0, 0
    for row in rows:
        ids, labels = torch.tensor([row.input_ids]), torch.tensor(row.labels)
        with torch.no_grad():
            log_p = tiny(ids).logits[0, :-1].log_softmax(-1)
        for at, label in enumerate(labels[1:].tolist()):
            if label != IGNORED:
                total, count = total - float(log_p[at, label]), count + 1
    assert heldout.loss(tiny, rows) == pytest.approx(total / count, rel=1e-5)


def test_answers_in_a_padded_batch_equal_those_alone(tiny_model_dir: Path) -> None:
    tiny, tokenizer = load(tiny_model_dir)
    long: list[Message] = [{"role": "system", "content": "Be very short, please."}, *colour_rows(1)[0]]
    asked = questions(tokenizer, rows_of([*colour_rows(3), long]))
    alone = [ask(tiny, tokenizer, [question], [])[0] for question in asked]
    assert ask(tiny, tokenizer, asked, []) == alone


def test_answers_too_long_to_compare_are_not_asked(tiny_model_dir: Path) -> None:
    _, tokenizer = load(tiny_model_dir)
    (row,) = colour_rows(1)
    row[1]["content"] = "word " * 1000
    assert questions(tokenizer, rows_of([row])) == []


@pytest.mark.parametrize("template", [TEMPLATE, THINKING], ids=["plain", "thinking"])
def test_who_says_what_was_trained_is_exactly_right(template: str) -> None:
    tokenizer = make_tokenizer(template)
    rows = rows_of(colour_rows(2))
    trained = [[label for label in row.labels if label != IGNORED] for row in encode(tokenizer, rows)]
    end = tokenizer.core.token_to_id(END)
    asked = questions(tokenizer, rows)
    assert score("as trained", asked, [_answer(tokenizer, ids, [end]) for ids in trained]).exact == 2
    assert asked[0].expected_tokens == len(trained[0])


def test_a_gguf_that_says_what_was_trained_is_exactly_right(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(THINKING)
    rows = rows_of(colour_rows(1))
    (row,) = encode(tokenizer, rows)
    trained = [label for label in row.labels if label != IGNORED]

    class Parrot:
        def generate(self, _prompt: Any, _most: int) -> SimpleNamespace:
            return SimpleNamespace(ids=trained, stopped=True)

    exam = evaluate.Exam(tmp_path, 1, questions(tokenizer, rows), [row], None, data="", target=tmp_path)
    answers = evaluate._ask_gguf(Parrot(), tokenizer, exam, lambda _done: None)  # type: ignore[arg-type]
    assert score("bf16", exam.asked, answers).exact == 1


def test_rows_longer_than_the_training_saw_are_not_asked_and_counted(
    make_run: MakeRun, make_context: MakeContext
) -> None:
    run = make_run(max_length=64)
    chats = colour_rows(3)
    chats[1][0]["content"] = "word " * 100
    rows = [Row(line, chat) for line, chat in enumerate(chats)]
    asked = heldout.askable(make_context(run), make_tokenizer(), rows)
    assert len(asked) == 2
    assert all(len(question.input_ids) + question.expected_tokens <= 64 for question in asked)
    (told,) = events_of(run, "finding")
    assert told.title == "1 of 3 held-out rows are not asked"  # type: ignore[union-attr]


def test_without_an_adapter_there_is_nothing_to_evaluate(make_run: MakeRun, make_context: MakeContext) -> None:
    with pytest.raises(MissingError, match="no adapter"):
        evaluate.run(make_context(make_run(), "eval"))


@pytest.mark.slow
def test_the_stage_scores_base_and_tuned_model(make_run: MakeRun, make_context: MakeContext) -> None:
    run = make_run(max_steps=150, learning_rate=1e-2, eval_steps=1000, gradient_accumulation_steps=1)
    train.run(make_context(run))
    evaluate.run(make_context(run, "eval"))
    result = json.loads(run.evaluation.read_text())
    base, tuned = result["forms"]
    assert (base["name"], tuned["name"]) == ("base", "as trained")
    assert tuned["loss"] < base["loss"]
    assert (base["exact"], tuned["exact"], tuned["stopped"]) == (0, 8, 8)
    last_eval = events_of(run, "eval")[-1]
    assert tuned["loss"] == pytest.approx(last_eval.loss, rel=1e-4)  # type: ignore[union-attr]
