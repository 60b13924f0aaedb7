"""Scores: exact match, stopping, and the held-out loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import MissingError
from engine.worker import evaluate, heldout, train
from engine.worker.answer import Answer, Question, ask, questions, score
from engine.worker.tokenize import IGNORED, encode

from .conftest import MakeContext, MakeRun, colour_rows, events_of


def load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return tiny, AutoTokenizer.from_pretrained(folder)


def test_the_score_counts_equal_answers_and_those_that_stopped() -> None:
    asked = [Question("a", (1,), "yes", 1), Question("b", (1,), "no", 1)]
    seen = score("base", asked, [Answer("yes", False), Answer("No", True)])
    assert (seen.rows, seen.exact, seen.stopped, seen.exact_match) == (2, 1, 1, 0.5)


def test_the_loss_is_the_mean_over_trained_tokens_whatever_the_batches(tiny_model_dir: Path) -> None:
    tiny, tokenizer = load(tiny_model_dir)
    rows = encode(tokenizer, [*colour_rows(5), *colour_rows(1, seed=3)])
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
    chats = [*colour_rows(3), [{"role": "system", "content": "Be very short, please."}, *colour_rows(1)[0]]]
    asked = questions(tokenizer, chats)  # type: ignore[arg-type]
    alone = [ask(tiny, tokenizer, [question], [])[0] for question in asked]
    assert ask(tiny, tokenizer, asked, []) == alone


def test_answers_too_long_to_compare_are_not_asked(tiny_model_dir: Path) -> None:
    _, tokenizer = load(tiny_model_dir)
    (row,) = colour_rows(1)
    row[1]["content"] = "word " * 1000
    assert questions(tokenizer, [row]) == []


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
