"""The training screen over run directories in every state."""

from __future__ import annotations

import math
import re

import pytest
import recorded
from driving import text, until
from textual.pilot import Pilot

from engine import runs
from engine.events import Progress, Step
from engine.paths import RunDir
from engine.runs import lock_holder
from engine.state import RunState, Status, fold
from tui import messages
from tui.app import FinetuiApp
from tui.modals.confirm import ConfirmModal
from tui.screens.train import TrainScreen
from tui.widgets.gpu_lines import load_line
from tui.widgets.loss_chart import LossChart, Losses, smoothed
from tui.widgets.run_text import phase_text
from tui.widgets.series import CAPACITY, Series


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


async def test_a_hundred_thousand_steps_cost_the_chart_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    state = fold(RunState(), recorded.steps(100_000, 110_000))
    more = fold(state, recorded.steps(100_010, 110_000, first=100_001))
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(app, pilot, recorded.trained())
        chart = screen.query_one(LossChart)
        chart.evals, chart.steps = state.evals, state.steps
        added: list[Step] = []
        add = chart._losses._add
        monkeypatch.setattr(chart._losses, "_add", lambda step: (added.append(step), add(step)))
        chart.evals, chart.steps = more.evals, more.steps
        assert len(added) == 10, "only what is new is looked at"
        assert len(chart._losses.raw) <= CAPACITY
        assert len(chart._losses.smooth) <= CAPACITY


def falling(count: int, floor: float = 0.01) -> list[Step]:
    """A short run as small models have it: from 7 to almost nothing within the first steps."""
    losses = [floor + 7 * math.exp(-step / 6) for step in range(count)]
    return [Step(step=step + 1, steps=count, loss=loss, lr=1e-3, epoch=0.0) for step, loss in enumerate(losses)]


def test_a_short_run_is_smoothed_over_a_short_window() -> None:
    steps = [Step(step=at + 1, steps=144, loss=5.0 if at < 100 else 1.0, lr=1e-3, epoch=0.0) for at in range(144)]
    told = smoothed(steps)
    assert told is not None
    assert told == pytest.approx(1.0, abs=0.02), "44 steps after the fall nothing of it is left"


def test_of_twenty_steps_each_is_shown_as_it_is() -> None:
    assert smoothed(falling(20)) == falling(20)[-1].loss


def test_the_legends_figure_is_where_the_line_ends() -> None:
    steps = [event for event in recorded.steps(3000) if isinstance(event, Step)]
    losses = Losses()
    losses.follow(steps)
    assert losses.smooth.last == pytest.approx(smoothed(steps), rel=1e-4)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
@pytest.mark.parametrize("kind", ["falling", "noisy"])
async def test_the_axis_has_three_labels_at_least(size: tuple[int, int], kind: str) -> None:
    run = recorded.create()
    recorded.write(run, *recorded.started(), *(falling(144) if kind == "falling" else recorded.steps(200)))
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot, run)
        await until(pilot, lambda: len(re.findall(r"^ *\S+┤", text(app), re.MULTILINE)) >= 3)


async def test_the_first_steps_do_not_flatten_the_rest_and_are_told() -> None:
    run = recorded.create()
    recorded.write(run, *recorded.started(), *falling(144, floor=0.5))
    app = FinetuiApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, run)
        await until(pilot, lambda: "up to 7.50" in text(app))
        labels = [float(label) for label in re.findall(r"^ *(\S+)┤", text(app), re.MULTILINE)]
        assert max(labels) < 4


async def test_a_curve_without_outliers_is_shown_whole() -> None:
    run = recorded.create()
    recorded.write(run, *recorded.started(), *recorded.steps(100))
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, run)
        await until(pilot, lambda: "train " in text(app))
        assert "up to" not in text(app)


async def test_a_run_without_its_plan_is_told_in_a_sentence_and_not_offered_to_be_started() -> None:
    run = recorded.create()
    run.plan.write_text('{"version": 1}')
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(app, pilot, run)
        await until(pilot, lambda: "This run cannot go on" in text(app))
        assert not screen.check_action("resume", ())
        assert "r start" not in text(app)
        assert "validation error" not in text(app)


async def test_a_run_deleted_while_it_is_shown_offers_only_to_leave() -> None:
    run = recorded.stopped()
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(app, pilot, run)
        await until(pilot, lambda: "Resume" in text(app))
        runs.delete(run)
        await until(pilot, lambda: "was deleted" in text(app) and "Resume" not in text(app))
        assert all(feed.stopped for feed in screen._feeds[:1])
        await pilot.press("q")
        await until(pilot, lambda: app.screen is not screen)


async def test_just_after_a_resume_the_old_time_left_is_not_shown() -> None:
    run = recorded.stopped()
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        with recorded.held(run):  # the worker lives, and has not said a word yet
            screen = await opened(app, pilot, run)
            await until(pilot, lambda: screen.status is Status.RUNNING)
            await until(pilot, lambda: "step 210/600" in text(app))
            assert "left" not in text(app)
            recorded.write(run, *recorded.started())
            await until(pilot, lambda: "loading the model to NF4" in text(app))
            assert "left" not in text(app)
            recorded.write(run, *recorded.steps(212, 600, first=211))
            await until(pilot, lambda: "step 212/600" in text(app) and "left" in text(app))


def test_bars_tell_their_figure_by_shape() -> None:
    assert "━━━━╌╌╌╌" in load_line("GPU", 0.5, 40).plain
    state = fold(RunState(), [*recorded.started(), Progress(stage="train", done=5, total=10, unit="rows", label="x")])
    assert f"{'━' * 10}{'╌' * 10}" in phase_text(state, Status.RUNNING).plain


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
