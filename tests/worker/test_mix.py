"""A run with files beside its data: general rows mixed in, and gold rows that are only for the evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.datasets.scan import scan
from engine.datasets.split import side_key
from engine.errors import DataError
from engine.events import EventTail
from engine.paths import RunDir
from engine.plan import Plan
from engine.plan import make_plan as plan_of
from engine.state import RunState, fold
from engine.worker import evaluate, examples, train

from .conftest import MakeContext, MakeRun, colour_rows, events_of

GENERAL = [{"instruction": f"Count to {number}.", "output": f"One and {number}."} for number in range(30)]
TEXTS = [{"text": f"The box number {number} is red and on its way. " * 8} for number in range(30)]


@dataclass
class Files:
    """What lies beside the data."""

    mix: Path
    gold: Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    gold = [{"messages": row} for row in (*colour_rows(48)[:6], *colour_rows(50)[48:])]
    return Files(write(tmp_path / "general.jsonl", GENERAL), write(tmp_path / "gold.jsonl", gold))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


MakeMixed = Callable[..., RunDir]


@pytest.fixture
def mixed(make_run: MakeRun, files: Files) -> MakeMixed:
    """`mixed(ratio=0.2, **train)`: a run on the 48 rows, 8 of them gold, with general rows mixed in."""

    def make(ratio: float = 0.2, **train: Any) -> RunDir:
        run = make_run(**train)
        plan = Plan.model_validate_json(run.plan.read_bytes())
        beside = {"mix_path": str(files.mix), "mix_ratio": ratio, "gold_path": str(files.gold), "format": "auto"}
        data = plan.data.model_copy(update=beside)
        run.plan.write_text(plan_of(plan.preset, data, scan(data), None, disk_free_bytes=10**12).model_dump_json())
        return run

    return make


def titles(run: RunDir) -> list[str]:
    return [event.title for event in events_of(run, "finding")]  # type: ignore[union-attr]


def test_the_rows_are_those_of_the_plan_and_the_same_each_time(mixed: MakeMixed, make_context: MakeContext) -> None:
    context = make_context(mixed())
    rows, summary = examples.read(context), context.plan.summary
    assert rows == examples.read(context)
    assert (len(rows.own) + len(rows.mixed), len(rows.mixed)) == (summary.rows, summary.mix_rows) == (44, 9)
    assert (len(rows.held_out), rows.gold) == (summary.eval_rows, summary.gold_rows) == (7, 8)


def test_nothing_that_is_gold_or_held_out_is_learned(mixed: MakeMixed, files: Files, make_context: MakeContext) -> None:
    run = mixed(ratio=0.9)  # so that all of the file is drawn that may be
    write(files.mix, [{"messages": row} for row in colour_rows(50)])
    rows = examples.read(make_context(run))
    learned = {side_key(row) for row in (*rows.own, *rows.mixed)}
    kept = {side_key(row) for row in rows.held_out}
    assert len(learned | kept) == 48 - 6
    assert not learned & kept


@pytest.mark.parametrize("name", ["mix", "gold"])
def test_a_changed_file_is_refused(mixed: MakeMixed, files: Files, make_context: MakeContext, name: str) -> None:
    context = make_context(mixed())
    path: Path = getattr(files, name)
    examples.require_planned(context)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(DataError, match="changed since the plan") as caught:
        train.run(context)
    assert str(path) in caught.value.detail


@pytest.mark.slow
def test_mixed_in_rows_are_trained_on_and_told(mixed: MakeMixed, make_context: MakeContext) -> None:
    run = mixed(max_steps=2, score_rows=0)
    train.run(make_context(run))
    assert "44 rows are trained on" in titles(run)
    assert "9 rows are mixed in from general.jsonl: 20 % of those to learn from" in titles(run)
    assert "8 gold rows are kept apart" in titles(run)
    assert "mixed in: 9 of general.jsonl" in (run.adapter / "README.md").read_text()
    assert events_of(run, "step")[1].epoch == pytest.approx(2 * 8 / 44)  # type: ignore[union-attr]


@pytest.mark.slow
def test_raw_text_can_be_mixed_in_to_conversations(mixed: MakeMixed, files: Files, make_context: MakeContext) -> None:
    write(files.mix, TEXTS)
    run = mixed(max_steps=2, score_rows=0)
    train.run(make_context(run))
    assert "35 rows are trained on" in titles(run)
    assert any(title.startswith("9 texts are packed into ") for title in titles(run))
    assert len(events_of(run, "step")) == 2


@pytest.mark.slow
def test_gold_rows_are_scored_apart_and_never_in_place_of_the_runs_own(
    mixed: MakeMixed, make_context: MakeContext
) -> None:
    run = mixed(max_steps=2)
    train.run(make_context(run))
    before = fold(RunState(), EventTail(run.events).poll()).scores
    evaluate.run(make_context(run, "eval"))
    scores = fold(RunState(), EventTail(run.events).poll()).scores
    own, gold = (json.loads(path.read_text()) for path in (run.evaluation, run.evaluation_of("gold")))
    assert (own["rows"], gold["rows"]) == (7, 8)
    assert list(before) == ["base", "as trained"]
    assert list(scores) == ["base", "as trained", "base on gold", "as trained on gold"]
    assert (scores["base"].rows, scores["base on gold"].rows) == (7, 8)
    assert all(form["loss"] > 0 for form in own["forms"] + gold["forms"])


@pytest.mark.slow
def test_a_gold_file_that_has_changed_since_is_told(mixed: MakeMixed, files: Files, make_context: MakeContext) -> None:
    run = mixed(max_steps=2, score_rows=0)
    train.run(make_context(run))
    write(files.gold, [{"messages": row} for row in colour_rows(2)])
    evaluate.run(make_context(run, "eval"))
    assert "The gold file has changed since the plan was made" in titles(run)
    assert json.loads(run.evaluation_of("gold").read_text())["rows"] == 2
