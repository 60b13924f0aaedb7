"""Scores as the command line shows them: the run's own, gold and other rows apart, and raw text without any."""

from __future__ import annotations

import json
from pathlib import Path

from engine.commands.export import held_out_losses, loss_line, score_lines
from engine.commands.narrate import describe
from engine.commands.summary import score_text, scores
from engine.events import Finding, Score
from engine.state import GOLD, NOTHING_ASKED, RunState, fold
from tui.widgets.run_text import samples_text

OWN = [Score(form="base", rows=50, exact=5, stopped=40), Score(form="as trained", rows=50, exact=45, stopped=50)]
HAND_CHECKED = [Score(form="as trained", rows=200, exact=160, stopped=200, data=GOLD)]


def state(*seen: Score) -> RunState:
    return fold(RunState(), seen)


def test_gold_scores_stand_apart_below_the_runs_own() -> None:
    lines = score_lines(state(*HAND_CHECKED, *OWN))
    assert [line.split("  ")[0].strip() for line in lines] == [
        "form", "base", "as trained", "", "on gold rows", "form", "as trained",
    ]  # fmt: skip
    assert "45 of 50" in lines[2]
    assert "160 of 200" in lines[6]


def test_a_run_that_was_asked_nothing_says_so_instead_of_zero_of_zero() -> None:
    assert score_lines(state()) == ["nothing was asked: there are no held-out questions"]
    assert score_text(state()) == ""


def test_the_screen_of_a_run_on_raw_text_does_not_promise_answers() -> None:
    asked_nothing = fold(RunState(), [Finding(level="ok", title=NOTHING_ASKED)])
    assert samples_text(asked_nothing).plain.startswith(NOTHING_ASKED)
    assert "at each evaluation" in samples_text(RunState()).plain


def test_gold_alone_has_no_empty_table_above() -> None:
    lines = score_lines(state(*HAND_CHECKED))
    assert lines[0].startswith("nothing was asked")
    assert sum("as trained" in line for line in lines) == 1


def test_a_list_of_runs_shows_gold_beside_the_runs_own() -> None:
    foreign = Score(form="as trained", rows=9, exact=9, data="other.jsonl")
    assert score_text(state(*OWN, *HAND_CHECKED, foreign)) == "exact base 10 %, as trained 90 %; gold 80 %"


def test_scripts_get_gold_under_its_own_name() -> None:
    assert list(scores(state(*OWN, *HAND_CHECKED))) == ["base", "as trained", "as trained on gold"]


def test_a_score_on_gold_rows_is_narrated_as_such() -> None:
    assert describe(HAND_CHECKED[0]) == "as trained: 160 of 200 gold answers exact (80 %)"
    assert describe(OWN[0]) == "base: 5 of 50 held-out answers exact (10 %)"


def test_losses_are_read_from_what_the_stage_wrote(tmp_path: Path) -> None:
    forms = [{"name": "base", "loss": 2.5}, {"name": "as trained", "loss": 1.25}, {"name": "Q8_0", "loss": None}]
    file = tmp_path / "evaluation.gold.json"
    file.write_text(json.dumps({"forms": forms}), "utf-8")
    losses = held_out_losses(file)
    assert losses == {"base": 2.5, "as trained": 1.25}
    assert loss_line(file.name, losses) == "gold loss: base 2.500, as trained 1.250"
    assert loss_line("evaluation.json", losses).startswith("held-out loss: ")
