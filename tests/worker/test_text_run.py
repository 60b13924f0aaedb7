"""Continued pretraining on a file of plain text, through every stage, on a base without a chat template."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.chat import ChatSession, Delta, Done
from engine.config import DatasetSpec, StageName, StageOptions
from engine.datasets.base import Row
from engine.datasets.scan import scan
from engine.events import EventWriter
from engine.paths import RunDir
from engine.plan import Plan
from engine.plan import make_plan as plan_of
from engine.tokens.tokenizer import Tokenizer
from engine.worker import certify, evaluate, gguf, merge, train
from engine.worker.context import Context
from engine.worker.packing import LEAST, pack, shuffled

from .conftest import BOS, END, events_of, make_plan

LENGTH = 64
THREES = ("the box is", "red green blue", "yellow on its", "way thank you", "letter and a", "page of words")


def page(rng: random.Random) -> str:
    """A paragraph of a language with few words, which always come in threes."""
    return " ".join(rng.choice(THREES) for _ in range(60)) + ".\n\n"


def plain_base(model: Path, folder: Path) -> Path:
    """The tiny model as a base that was never taught to chat: no chat template."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "chat_template"}))
    return folder


@dataclass
class TextRun:
    """The run after all of its stages."""

    run: RunDir
    plan: Plan
    tokenizer: Tokenizer

    def stage(self, stage: StageName, **options: Any) -> Context:
        return Context(self.run, self.plan, EventWriter(self.run.events), StageOptions(**options), stage)

    def titles(self) -> list[str]:
        return [event.title for event in events_of(self.run, "finding")]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def done(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TextRun:
    folder = tmp_path_factory.mktemp("text")
    data, rng = folder / "book.txt", random.Random(0)
    data.write_text("".join(page(rng) for _ in range(220)), "utf-8")
    base = plain_base(tiny_model_dir, folder / "base")
    preset = make_plan(base, data, {"max_length": LENGTH, "max_steps": 12, "eval_steps": 6}).preset
    spec = DatasetSpec(path=str(data), eval_fraction=0.1)
    plan = plan_of(preset, spec, scan(spec), None, slug="book", disk_free_bytes=10**12)
    text = TextRun(RunDir(folder / "run"), plan, Tokenizer.load(base))
    text.run.path.mkdir()
    text.run.plan.write_text(plan.model_dump_json())
    train.run(text.stage("train"))
    merge.run(text.stage("merge"))
    gguf.run(text.stage("gguf", quants=("Q8_0",)))
    certify.run(text.stage("certify"))
    evaluate.run(text.stage("eval"))
    return text


@pytest.mark.slow
def test_the_held_out_loss_of_the_text_falls(done: TextRun) -> None:
    losses = [event.loss for event in events_of(done.run, "eval")]  # type: ignore[union-attr]
    assert len(losses) == 2
    assert losses[1] < losses[0]


@pytest.mark.slow
def test_held_out_texts_are_kept_as_they_are(done: TextRun) -> None:
    kept = [json.loads(line) for line in done.run.heldout.read_text().splitlines()]
    assert len(kept) == done.plan.summary.eval_rows >= 2
    assert all(row["text"] in Path(done.plan.data.path).read_text() and list(row) == ["text"] for row in kept)


@pytest.mark.slow
def test_every_token_that_has_one_before_it_is_trained(done: TextRun) -> None:
    first = events_of(done.run, "step")[0]
    assert first.trained_tokens == done.plan.effective_batch * (LENGTH - 1)  # type: ignore[union-attr]


@pytest.mark.slow
def test_nothing_is_asked_and_that_is_said(done: TextRun) -> None:
    assert events_of(done.run, "score") == events_of(done.run, "sample") == []
    assert "Nothing is asked: raw text has no questions" in done.titles()


@pytest.mark.slow
def test_what_is_packed_is_told_and_near_what_the_plan_expected(done: TextRun) -> None:
    (told,) = [title for title in done.titles() if "are packed into" in title]
    packed = int(told.split(" packed into ")[1].split(" ")[0].replace(",", ""))
    tokens = sum(len(done.tokenizer.ids(text)) for text in Path(done.plan.data.path).read_text().split("\n\n") if text)
    assert told.startswith(f"{done.plan.summary.rows} texts are packed into")
    assert packed == pytest.approx(0.9 * tokens / LENGTH, rel=0.1)


@pytest.mark.slow
def test_the_certificate_passes_without_a_line_on_stopping(done: TextRun) -> None:
    checks = events_of(done.run, "check")
    titles = {check.title for check in checks}  # type: ignore[union-attr]
    assert json.loads(done.run.certificate.read_text())["passed"]
    assert "it stops" not in titles
    assert {"prompts give the same token ids", "same distribution", "same held-out loss"} <= titles
    assert "Whether it stops is not tried: raw text asks nothing" in done.titles()


@pytest.mark.slow
def test_the_evaluation_has_losses_and_no_questions(done: TextRun) -> None:
    base, tuned = json.loads(done.run.evaluation.read_text())["forms"]
    assert (base["name"], tuned["name"]) == ("base", "as trained")
    assert base["rows"] == tuned["rows"] == 0
    assert tuned["loss"] < base["loss"]


@pytest.mark.slow
def test_a_gguf_without_a_template_continues_what_it_is_given(done: TextRun) -> None:
    with ChatSession(done.run.gguf("Q8_0")) as session:
        *said, end = session.ask([{"role": "user", "content": "the box is red"}], max_tokens=8)
    assert isinstance(end, Done)
    assert end.prompt_tokens == len(done.tokenizer.ids("the box is red")) + len(done.tokenizer.added[0])
    assert all(isinstance(piece, Delta) for piece in said)


@pytest.mark.slow
def test_a_stopped_text_run_resumes_to_the_same_steps(done: TextRun, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "again")
    again = TextRun(run, done.plan, done.tokenizer)
    shutil.copytree(done.run.path, run.path, ignore=shutil.ignore_patterns("adapter", "merged", "*.gguf", "events*"))
    shutil.rmtree(run.checkpoints / "checkpoint-12")
    train.run(again.stage("train", resume=True))
    mine, theirs = ({e.step: e.loss for e in events_of(r, "step")} for r in (run, done.run))  # type: ignore[union-attr]
    assert mine == {step: loss for step, loss in theirs.items() if step > 8}


# ── packing ──


@pytest.mark.parametrize(("tokens", "lengths"), [(256, [64] * 4), (64 + LEAST, [64, LEAST]), (64 + LEAST - 1, [64])])
def test_texts_are_cut_into_whole_sequences_and_a_rest_worth_a_step(tokens: int, lengths: list[int]) -> None:
    packed = pack([range(tokens - 10), range(10)], 64)
    assert [len(sequence.input_ids) for sequence in packed] == lengths


def test_packing_loses_and_changes_nothing() -> None:
    texts = [list(range(n, n + 40)) for n in range(0, 400, 40)]
    packed = pack(texts, 64)
    assert np.concatenate([sequence.input_ids for sequence in packed]).tolist() == list(range(400))
    assert all((sequence.labels == sequence.input_ids).all() for sequence in packed)


def test_texts_are_shuffled_by_the_seed_and_chats_are_not() -> None:
    chats = [Row(n, [{"role": "assistant", "content": "a"}]) for n in range(5)]
    texts = [Row(n, [], f"text {n}") for n in range(5, 30)]
    first, again, other = (shuffled([*texts, *chats], seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first[:5] == chats
    assert sorted(first[5:], key=lambda row: row.line) == texts != first[5:]


def test_a_text_begins_as_its_tokenizer_begins_one_and_ends_with_its_end(tiny_model_dir: Path) -> None:
    from engine.tokens.mask import Tally, encode_rows

    tokenizer = Tokenizer.load(tiny_model_dir)
    (batch,) = encode_rows(tokenizer, [Row(1, [], "the box")], 64, Tally(), "book.txt")
    (row,) = batch
    assert row.input_ids[-1] == tokenizer.id_of("eos_token") == tokenizer.core.token_to_id(END)
    begins = [tokenizer.core.token_to_id(BOS)] if tokenizer.added[0] else []
    assert row.input_ids[:-1] == [*begins, *tokenizer.ids("the box")]
    assert row.labels == row.input_ids
