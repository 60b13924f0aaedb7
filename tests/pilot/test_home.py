"""Home over run directories in every state."""

from __future__ import annotations

import pytest
import recorded
from driving import text, until

from engine import runs
from engine.state import Status
from tui import verbs
from tui.app import FinetuiApp
from tui.modals.confirm import ConfirmModal
from tui.screens.home import HomeScreen
from tui.screens.train import TrainScreen
from tui.widgets.loss_chart import smoothed
from tui.widgets.run_table import RunTable


def home(app: FinetuiApp) -> HomeScreen:
    """The first screen."""
    screen = app.screen_stack[0]
    assert isinstance(screen, HomeScreen)
    return screen


async def test_an_empty_machine_is_told_how_to_begin() -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await until(pilot, lambda: home(app).runs == ())
        await until(pilot, lambda: "try the demo" in text(app))


async def test_enter_on_an_empty_machine_opens_setup() -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await until(pilot, lambda: home(app).runs == ())
        await pilot.press("enter")
        await until(pilot, lambda: type(app.screen).__name__ == "SetupScreen")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_each_state_is_told_with_a_symbol_and_a_word(size: tuple[int, int]) -> None:
    recorded.certified()
    recorded.certified("refuted", passed=False)
    recorded.trained("done")
    recorded.failed()
    recorded.lost()
    recorded.stopped()
    recorded.create("planned")
    with recorded.held(recorded.training()):
        app = FinetuiApp()
        async with app.run_test(size=size) as pilot:
            wanted = ("✓ certified", "✗ not proven", "✓ finished", "✗ failed", "✗ lost", "‖ stopped", "○ queued")
            for words in ("● training", *wanted, "r resume from 300"):
                await until(pilot, lambda words=words: words in text(app))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_nothing_scrolls_sideways(size: tuple[int, int]) -> None:
    recorded.certified("a-name-that-is-as-long-as-a-name-can-be-at-all")
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "certified" in text(app))
        wide = [widget for widget in app.screen.walk_children() if widget.show_horizontal_scrollbar]
        assert wide == []


async def test_the_footer_has_at_most_seven_keys() -> None:
    recorded.stopped()
    app = FinetuiApp()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "stopped" in text(app))
        assert len(app.screen.query("FooterKey")) <= 7


async def test_the_filter_keeps_what_matches_and_escape_shows_all() -> None:
    recorded.trained("alpha")
    recorded.failed("beta")
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await until(pilot, lambda: "beta" in text(app))
        await pilot.press("slash", *"failed")
        table = home(app).query_one(RunTable)
        assert [info.plan.slug for info in table.shown if info.plan] == ["beta"]
        await pilot.press("escape")
        assert len(table.shown) == 2


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_filter_that_nothing_matches_says_how_to_go_on(size: tuple[int, int]) -> None:
    recorded.trained("alpha")
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "alpha" in text(app))
        await pilot.press("slash", *"zzz", "enter")
        await until(pilot, lambda: "no run matches" in text(app) and "shows all" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "alpha" in text(app) and "no run matches" not in text(app))


async def test_a_run_without_its_plan_is_not_offered_to_be_started() -> None:
    run = recorded.create("alpha")
    run.plan.write_text('{"version": 1}')
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "no readable plan" in text(app))
        assert not home(app).check_action("resume", ())
        assert "r start" not in text(app)
        assert "finetui resume" not in text(app)


async def test_the_list_and_the_legend_tell_one_loss() -> None:
    run = recorded.trained(count=144)
    told = f"{smoothed(runs.read(run).state.steps):.3f}"
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: f"train {told}" in text(app))
        (line,) = [line for line in text(app).splitlines() if "300" in line or ("144" in line and "finished" in line)][
            :1
        ]
        assert told in line


async def test_the_preview_counts_the_epochs_that_the_steps_make() -> None:
    run = recorded.trained()
    plan = runs.load_plan(run)
    assert plan.passes != plan.train.epochs, "max_steps overrule the epochs"
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: f"× {plan.passes:.3g} epochs" in text(app))


async def test_the_cursor_stays_on_its_run_when_another_appears() -> None:
    recorded.trained("alpha")
    recorded.trained("beta")
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await until(pilot, lambda: "alpha" in text(app) and "beta" in text(app))
        await pilot.press("j")
        await pilot.pause()
        before = home(app).selected
        assert before is not None
        recorded.trained("zeta")
        await until(pilot, lambda: "zeta" in text(app))
        after = home(app).selected
        assert after is not None
        assert after.run == before.run


async def test_a_run_that_grows_is_read_on() -> None:
    run = recorded.training(count=50, total=500)
    with recorded.held(run):
        app = FinetuiApp()
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: "50/500" in text(app))
            recorded.write(run, *recorded.steps(60, 500, first=51))
            await until(pilot, lambda: "60/500" in text(app))


async def test_enter_opens_the_training_and_escape_leads_back() -> None:
    recorded.trained()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await until(pilot, lambda: "finished" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))


async def test_delete_asks_by_name_and_keeps_on_no() -> None:
    run = recorded.failed()
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "failed" in text(app))
        await pilot.press("d")
        assert isinstance(app.screen, ConfirmModal)
        await until(pilot, lambda: run.name in text(app))
        await pilot.press("enter")
        await pilot.pause()
        assert run.path.is_dir()


async def test_delete_removes_on_yes() -> None:
    run = recorded.failed()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await until(pilot, lambda: "failed" in text(app))
        await pilot.press("d", "y")
        await until(pilot, lambda: "try the demo" in text(app))
        assert not run.path.exists()


async def test_a_running_run_cannot_be_deleted() -> None:
    with recorded.held(recorded.training()):
        app = FinetuiApp()
        async with app.run_test() as pilot:
            await until(pilot, lambda: "training" in text(app))
            await pilot.press("d")
            await pilot.pause()
            assert isinstance(app.screen, HomeScreen)


async def test_quitting_leaves_the_worker_alone_and_says_so() -> None:
    run = recorded.training()
    with recorded.held(run):
        app = FinetuiApp()
        async with app.run_test() as pilot:
            await until(pilot, lambda: "training" in text(app))
            words = verbs.farewell(home(app).runs or ())
            await pilot.press("q")
        assert words is not None
        assert f"finetui tail {run.name}" in words.plain
        from engine.runs import lock_holder

        assert lock_holder(run) is not None


async def test_a_folder_that_is_no_run_is_named_and_harms_nothing() -> None:
    run = recorded.trained()
    run.plan.write_text("{")
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "no readable plan" in text(app))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_hostile_names_are_only_text(size: tuple[int, int]) -> None:
    recorded.hostile()
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "hostile \ufffd" in text(app))
        assert "\x1b" not in text(app)
        infos = home(app).runs
        assert infos is not None
        assert infos[0].status is Status.FAILED


async def test_a_storm_of_sizes() -> None:
    recorded.certified()
    recorded.lost()
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "certified" in text(app))
        for size in ((300, 100), (80, 24), (20, 5), (1, 1), (3, 40), (120, 1), (120, 40)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
        assert "certified" in text(app)
