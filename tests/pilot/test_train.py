"""The training screen over run directories in every state."""

from __future__ import annotations

import time

import pytest
import recorded
from driving import text, until
from textual.pilot import Pilot

from engine.paths import RunDir
from engine.runs import lock_holder
from engine.state import RunState, Status, fold
from tui import messages
from tui.app import FinetuiApp
from tui.modals.confirm import ConfirmModal
from tui.screens.train import TrainScreen
from tui.widgets.loss_chart import LossChart
from tui.widgets.series import Series


async def opened(app: FinetuiApp, pilot: Pilot[None], run: RunDir) -> TrainScreen:
    """The screen of the run, once the run was read."""
    app.post_message(messages.Open("train", run))
    await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.status is not None)
    assert isinstance(app.screen, TrainScreen)
    return app.screen


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_live_run_answers_the_questions(size: tuple[int, int]) -> None:
    run = recorded.training()
    with recorded.held(run):
        app = FinetuiApp()
        async with app.run_test(size=size) as pilot:
            await opened(app, pilot, run)
            for words in ("step 412/1250", "left", "train 0.", "★ best", "learning rate", "gradient norm",
                          "tokens/s", "checkpoint 400", "a spike", "My invoice"):  # fmt: skip
                await until(pilot, lambda words=words: words in text(app))
            sideways = [widget for widget in app.screen.walk_children() if widget.show_horizontal_scrollbar]
            assert sideways == []
            assert len(app.screen.query("FooterKey")) <= 7


async def test_the_chart_draws_braille_and_marks_the_best() -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, recorded.trained())
        await until(pilot, lambda: "★" in text(app))
        assert any("\u2801" <= letter <= "\u28ff" for letter in text(app))
        assert "step" in text(app)


async def test_new_steps_appear() -> None:
    run = recorded.training(count=20, total=500)
    with recorded.held(run):
        app = FinetuiApp()
        async with app.run_test() as pilot:
            await opened(app, pilot, run)
            recorded.write(run, *recorded.steps(25, 500, first=21))
            await until(pilot, lambda: "25/500" in text(app))


async def test_loading_shows_a_phase_with_a_share() -> None:
    run = recorded.loading()
    with recorded.held(run):
        app = FinetuiApp()
        async with app.run_test() as pilot:
            await opened(app, pilot, run)
            await until(pilot, lambda: "loading the model to NF4" in text(app) and "53 %" in text(app))


async def test_a_worker_that_vanishes_is_lost_with_its_last_words() -> None:
    run = recorded.lost()
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        with recorded.held(run):
            screen = await opened(app, pilot, run)
            assert screen.status is Status.RUNNING
        await until(pilot, lambda: "vanished" in text(app))
        assert "step 330" in text(app)
        assert "resume from step 300" in text(app)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_failure_has_the_words_of_the_command_line(size: tuple[int, int]) -> None:
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot, recorded.failed())
        for words in ("✗ The GPU has too little memory", "2.1 GiB wanted", "→ max_length 4096", "resume from step 100"):
            await until(pilot, lambda words=words: words in text(app))


async def test_a_stopped_run_offers_to_go_on() -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, recorded.stopped())
        await until(pilot, lambda: "‖ stopped: asked to stop" in text(app))
        assert screen.check_action("resume", ())
        assert not screen.check_action("stop", ())


async def test_a_finished_run_says_what_was_reached_and_what_is_next() -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(app, pilot, recorded.trained())
        await until(pilot, lambda: "exact match 0 → 95 %" in text(app))
        assert "e export" in text(app)
        assert screen.check_action("export", ())
        assert not screen.check_action("chat", ())


async def test_stop_asks_the_worker_and_says_so() -> None:
    run = recorded.training()
    with recorded.held(run):
        app = FinetuiApp()
        async with app.run_test() as pilot:
            await opened(app, pilot, run)
            await pilot.press("s")
            await until(pilot, lambda: "stopping" in text(app))
            assert run.stop.exists()


async def test_stop_now_asks_first() -> None:
    run = recorded.training()
    with recorded.held(run) as pid:
        app = FinetuiApp()
        async with app.run_test(size=(120, 40)) as pilot:
            await opened(app, pilot, run)
            await pilot.press("x")
            assert isinstance(app.screen, ConfirmModal)
            await pilot.press("n")
            assert lock_holder(run) == pid
            await pilot.press("x", "y")
            await until(pilot, lambda: lock_holder(run) is None)


async def test_leaving_does_not_touch_the_run() -> None:
    run = recorded.training()
    with recorded.held(run) as pid:
        app = FinetuiApp()
        async with app.run_test() as pilot:
            screen = await opened(app, pilot, run)
            await pilot.press("q")
            await until(pilot, lambda: app.screen is not screen)
            assert all(feed.stopped for feed in screen._feeds)
            assert lock_holder(run) == pid
            assert not run.stop.exists()


async def test_the_log_is_behind_a_key() -> None:
    app = FinetuiApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, recorded.lost())
        await pilot.press("l")
        await until(pilot, lambda: text(app).count("loading checkpoint shards") == 2)


async def test_a_graphics_card_shows_its_figures_beside_the_plan() -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(app, pilot, recorded.trained())
        screen._feeds[1].stop()
        await pilot.pause(0.1)
        screen.post_message(messages.GpuChanged(recorded.card()))
        for words in ("RTX 4090", "98 %", "VRAM 9.0 / 24.0 GiB", "planned", "71 °C", "402 / 450 W"):
            await until(pilot, lambda words=words: words in text(app))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_hostile_text_is_only_text(size: tuple[int, int]) -> None:
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot, recorded.hostile())
        await until(pilot, lambda: "[@click=app.bell]" in text(app))
        await pilot.press("l")
        await pilot.pause()
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text(app))


async def test_a_storm_of_sizes() -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, recorded.failed())
        for size in ((300, 100), (80, 24), (20, 5), (1, 1), (3, 40), (120, 1), (120, 40)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
        assert "too little memory" in text(app)


async def test_a_hundred_thousand_steps_do_not_slow_the_chart() -> None:
    state = fold(RunState(), recorded.steps(100_000, 110_000))
    more = fold(state, recorded.steps(100_010, 110_000, first=100_001))
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(app, pilot, recorded.trained())
        chart = screen.query_one(LossChart)
        chart.evals, chart.steps = state.evals, state.steps
        began = time.perf_counter()
        chart.evals, chart.steps = more.evals, more.steps
        chart.render()
        assert time.perf_counter() - began < 0.1, "a quarter of a second is all there is between two redraws"


def test_a_series_keeps_the_extremes_of_what_it_thins() -> None:
    series = Series()
    for x in range(50_000):
        series.append(x, 99.0 if x == 31_415 else 1.0)
    assert len(series) <= 1024
    assert series.bounds() == (1.0, 99.0)


def test_a_figure_that_is_not_finite_is_counted_not_drawn() -> None:
    series = Series()
    for y in (1.0, float("nan"), float("inf"), 2.0):
        series.append(len(series), y)
    assert series.not_finite == 2
    assert series.bounds() == (1.0, 2.0)
