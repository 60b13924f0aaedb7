"""The app alone, with real keys and real workers: from the first screen on an empty home to an answered question.

What it does not cover: a GPU, Ollama, a terminal (tests/pilot/test_app.py has one).
"""

from __future__ import annotations

import pytest
from driving import text, until

from engine import runs
from engine.paths import runs_dir
from engine.state import Status
from tui.app import FinetuiApp
from tui.screens.chat import ChatScreen
from tui.screens.export import ExportScreen
from tui.screens.home import HomeScreen
from tui.screens.setup import SetupScreen
from tui.screens.train import TrainScreen
from tui.widgets.preset_table import PresetTable

TRAINING_S, EXPORT_S = 240, 240


@pytest.mark.slow
@pytest.mark.timeout(TRAINING_S + EXPORT_S + 120)
async def test_enter_leads_from_nothing_to_an_answer() -> None:
    assert not runs_dir().exists()
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        await pilot.pause(0.5)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, SetupScreen) and app.screen.query_one(PresetTable).rows)
        await pilot.press("enter")  # the demo
        await until(pilot, lambda: "held out" in text(app))
        await pilot.press("enter")  # its data
        await until(pilot, lambda: "enter starts it" in text(app))
        await pilot.press("enter")  # the plan
        await until(pilot, lambda: isinstance(app.screen, TrainScreen), 30)
        screen = app.screen
        assert isinstance(screen, TrainScreen)
        await until(pilot, lambda: screen.status not in (None, Status.RUNNING), TRAINING_S)
        assert screen.status is Status.FINISHED, text(app)
        assert screen.state.scores["base"].exact == 0
        assert screen.state.scores["as trained"].exact_match >= 0.8

        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, ExportScreen) and app.screen.status is not None)
        export = app.screen
        assert isinstance(export, ExportScreen)
        await pilot.press("enter")
        await until(pilot, lambda: export.status is Status.RUNNING or "certify" in export.state.stages, 60)
        await until(
            pilot,
            lambda: export.status is not Status.RUNNING and export.state.current == "certify",
            EXPORT_S,
        )
        assert export.status is Status.FINISHED, text(app)
        assert export.state.checks
        assert all(check.passed for check in export.state.checks), text(app)

        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and "context" in text(app), 60)
        await pilot.press("enter")  # the preset's question
        await until(pilot, lambda: "tokens in" in text(app), 60)
        assert "queue: " in text(app)  # what it was taught to answer; before it never said so
    (info,) = runs.list_runs()
    assert info.status is Status.FINISHED
