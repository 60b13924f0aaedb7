"""The recorded run of the demo, a whole chain, replayed in every screen at both sizes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from driving import text, until

from engine import runs
from engine.paths import RunDir, runs_dir
from engine.state import Status
from tui.app import FinetuiApp
from tui.messages import Open

RECORDED = Path(__file__).parents[1] / "data" / "runs"
SIZES = [(80, 24), (120, 40)]


@pytest.fixture
def run() -> RunDir:
    """A copy of the recorded run, in the test's own home."""
    shutil.copytree(RECORDED, runs_dir())
    return runs.find("last")


def test_the_recording_is_a_whole_chain(run: RunDir) -> None:
    info = runs.read(run)
    assert info.status is Status.FINISHED
    assert {"train", "merge", "gguf", "certify", "eval"} <= set(info.state.stages)
    assert all(check.passed for check in info.state.checks)
    assert info.state.scores["base"].exact == 0
    assert info.state.scores["as trained"].exact_match >= 0.8


def test_the_recording_says_nothing_about_where_it_was_made(run: RunDir) -> None:
    for file in run.path.rglob("*"):
        if file.is_file() and file.suffix != ".gguf":
            words = file.read_text()
            assert "/root" not in words
            assert "/work" not in words
            assert "/tmp" not in words


@pytest.mark.parametrize("size", SIZES)
async def test_home_lists_it(run: RunDir, size: tuple[int, int]) -> None:
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "certified" in text(app))
        assert "demo" in text(app)


@pytest.mark.parametrize("size", SIZES)
async def test_training_shows_its_curve_and_its_end(run: RunDir, size: tuple[int, int]) -> None:
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        app.post_message(Open("train", run))
        await until(pilot, lambda: "loss" in text(app) and "eval" in text(app))
        assert "finished" in text(app) or "certified" in text(app)


@pytest.mark.parametrize("size", SIZES)
async def test_export_shows_the_certificate(run: RunDir, size: tuple[int, int]) -> None:
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        app.post_message(Open("export", run))
        await until(pilot, lambda: "certificate" in text(app) and "passed" in text(app))


@pytest.mark.parametrize("size", SIZES)
async def test_chat_answers_for_real_from_the_recorded_file(run: RunDir, size: tuple[int, int]) -> None:
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        app.post_message(Open("chat", run))
        await until(pilot, lambda: "Ask anything" in text(app))
        await pilot.press("enter")  # the preset's own question
        await until(pilot, lambda: "queue:" in text(app), seconds=30)
        plan = runs.load_plan(run)
        number = next(word.strip(".,") for word in plan.preset.question.split() if word.strip(".,").isdigit())
        await until(pilot, lambda: f"ref: {number}" in text(app))
