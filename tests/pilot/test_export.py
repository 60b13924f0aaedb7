"""The export screen over run directories in every state."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import recorded
from driving import text, until
from textual.pilot import Pilot

from engine import launch, runs
from engine.config import StageOptions
from engine.events import Check, Failed, Finished, Output, Progress
from engine.paths import RunDir
from tui import messages
from tui.app import FinetuiApp
from tui.modals.ask import AskModal
from tui.modals.error import ErrorModal
from tui.screens.export import ExportScreen
from tui.widgets.quant_picker import QuantPicker
from tui.widgets.stage_list import StageList

Calls = list[tuple[RunDir, list[str], StageOptions]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the screen asked to start; no worker runs."""
    calls: Calls = []

    def start(run: RunDir, stages: Sequence[str], options: StageOptions) -> None:
        calls.append((run, list(stages), options))

    monkeypatch.setattr(launch, "start", start)
    return calls


async def opened(app: FinetuiApp, pilot: Pilot[None], run: RunDir) -> ExportScreen:
    app.post_message(messages.Open("export", run))
    await until(pilot, lambda: isinstance(app.screen, ExportScreen) and app.screen.status is not None)
    assert isinstance(app.screen, ExportScreen)
    return app.screen


def exported(name: str = "done", **changes: object) -> RunDir:
    """A run with every file that its plan asks for, and a certificate for each."""
    run = recorded.certified(name)
    run.merged.mkdir()
    for quant in ("bf16", "Q8_0"):
        run.gguf(quant).write_bytes(b"GGUF" * 100)
    given: dict[str, object] = {
        "title": "same distribution",
        "compared": "256 positions",
        "figure": "0.021",
        "limit": "0.08",
        "passed": True,
    }
    checks = [
        Check.model_validate({**given, **changes, "form": form} if form == "Q4_K_M" else {**given, "form": form})
        for form in ("bf16", "Q8_0", "Q4_K_M")
    ]
    recorded.write(run, *recorded.started("certify"), *checks, Finished(stage="certify", seconds=8.0))
    return run


async def test_enter_runs_the_whole_chain_with_what_is_ticked(started: Calls) -> None:
    run = recorded.trained()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, run)
        picker = screen.query_one(QuantPicker)
        picker.cursor = [row.quant for row in picker.rows].index("Q6_K")
        await pilot.press("space", "enter")
        await until(pilot, lambda: started)
    assert started == [(run, ["merge", "gguf", "certify"], StageOptions(quants=("Q8_0", "Q6_K", "Q4_K_M")))]


async def test_bf16_cannot_be_unticked(started: Calls) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, recorded.trained())
        picker = screen.query_one(QuantPicker)
        picker.cursor = 0
        await pilot.press("space")
        assert "bf16" not in picker.chosen
        assert "always made" in text(app)


async def test_without_an_adapter_it_says_so_and_starts_nothing(started: Calls) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, recorded.stopped())
        assert "nothing to export yet" in text(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorModal) and "no adapter" in text(app))
    assert started == []


async def test_what_is_done_is_not_done_again(started: Calls) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, exported())
        await until(pilot, lambda: "all made and certified" in text(app))
        screen.action_start()
        await pilot.pause(0.2)
    assert started == []


async def test_a_stage_can_be_run_again_alone(started: Calls) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, exported())
        stages = screen.query_one(StageList)
        stages.focus()
        await pilot.press("up", "enter")
        await until(pilot, lambda: started)
    assert [stages for _, stages, _ in started] == [["certify"]]


async def test_enter_out_of_habit_does_not_do_again_what_is_done(started: Calls) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, exported())
        assert isinstance(app.focused, StageList)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is not screen)
        assert isinstance(app.screen, AskModal), "the next thing is Ollama, and it asks"
    assert started == []


async def test_no_second_worker_is_offered_on_the_stages() -> None:
    run = recorded.trained()
    recorded.write(run, *recorded.started("merge"))
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        with recorded.held(run):
            screen = await opened(app, pilot, run)
            await until(pilot, lambda: isinstance(app.focused, StageList))
            await until(pilot, lambda: "Stop" in text(app) and "Run again" not in text(app))
        await until(pilot, lambda: not screen.busy)
        await until(pilot, lambda: "Run again" in text(app))


async def test_without_its_plan_nothing_is_started(started: Calls) -> None:
    run = recorded.trained()
    run.plan.unlink()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorModal))
    assert started == []


async def test_a_run_deleted_under_the_export_offers_only_to_leave(started: Calls) -> None:
    run = exported()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, run)
        runs.delete(run)
        await until(pilot, lambda: "was deleted" in text(app))
        await pilot.press("enter", "s", "o", "t")
        await pilot.pause()
        assert app.screen is screen
        await until(pilot, lambda: "Export" not in text(app) and "Chat" not in text(app).splitlines()[-1])
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is not screen)
    assert started == []


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_running_stage_shows_bytes_rate_and_time_left(size: tuple[int, int]) -> None:
    run = recorded.trained()
    recorded.write(run, *recorded.started("gguf"))
    write = [Progress(stage="gguf", done=done * 1e9, total=4e9, unit="bytes", label="Q4_K_M") for done in (1, 3)]
    recorded.write(run, write[0])
    lines = run.events.read_text().splitlines()
    later = lines[-1].replace('"seq":', '"seq":1').replace('"done":1000000000.0', '"done":3000000000.0')
    moved = float(later.split('"t":')[1].split(",")[0])
    run.events.write_text("\n".join([*lines, later.replace(str(moved), str(moved + 20))]) + "\n")
    with recorded.held(run):
        app = FinetuiApp()
        async with app.run_test(size=size) as pilot:
            screen = await opened(app, pilot, run)
            for words in ("75 %", "Q4_K_M", "2.8 GiB of 3.7 GiB", "143 MiB/s", "left"):
                await until(pilot, lambda words=words: words in text(app))
            assert [widget for widget in screen.walk_children() if widget.show_horizontal_scrollbar] == []
            assert len(screen.query("FooterKey")) <= 7


async def test_stop_asks_the_worker(started: Calls) -> None:
    run = recorded.trained()
    recorded.write(run, *recorded.started("merge"))
    with recorded.held(run):
        app = FinetuiApp()
        async with app.run_test() as pilot:
            await opened(app, pilot, run)
            await pilot.press("s")
            await until(pilot, run.stop.exists)
            await until(pilot, lambda: "stopping" in text(app))


async def test_while_a_worker_runs_no_second_is_started(started: Calls) -> None:
    run = recorded.trained()
    recorded.write(run, *recorded.started("merge"))
    with recorded.held(run):
        app = FinetuiApp()
        async with app.run_test() as pilot:
            await opened(app, pilot, run)
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, ErrorModal))
    assert started == []


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_certificate_shows_figure_limit_and_remedy(size: tuple[int, int]) -> None:
    run = exported(figure="0.21", passed=False, remedy="Choose a larger quantization.")
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        screen = await opened(app, pilot, run)
        await until(pilot, lambda: "1 of 3 failed" in text(app))
        screen.query_one("#export-body").scroll_end(animate=False)
        for words in ("0.21", "0.08", "same distribution", "Choose a larger quantization."):
            await until(pilot, lambda words=words: words in text(app))


async def test_a_failed_stage_shows_cause_and_hints() -> None:
    run = exported()
    hints = ("Start it: ollama serve",)
    words = {"title": "Ollama does not answer", "detail": "connection refused [/x]", "hints": hints}
    recorded.write(run, *recorded.started("ollama"), Failed.model_validate({"stage": "ollama", **words}))
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await until(pilot, lambda: "connection refused [/x]" in text(app) and "ollama serve" in text(app))


async def test_ollama_asks_for_a_name(started: Calls) -> None:
    run = exported("support desk")
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await pilot.press("o")
        await until(pilot, lambda: "What shall it be called" in text(app))
        await pilot.press(*["backspace"] * 20, *"mine", "enter")
        await until(pilot, lambda: started)
    assert started == [(run, ["ollama"], StageOptions(name="mine"))]


@pytest.mark.parametrize("uncertified", [False, True])
async def test_taking_a_name_skips_no_certificate_and_a_failed_one_is_asked_about(
    started: Calls, uncertified: bool
) -> None:
    run = exported("sent on", passed=not uncertified)
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await pilot.press("o")
        await until(pilot, lambda: "What shall it be called" in text(app))
        await pilot.press("tab", "space", "shift+tab", "enter")
        if uncertified:
            await until(pilot, lambda: "without a certificate?" in text(app))
            assert started == []
            await pilot.press("y")
        await until(pilot, lambda: started)
    assert started[0][2].replace
    assert started[0][2].uncertified is uncertified


async def test_no_is_no_to_an_export_without_a_certificate(started: Calls) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, exported("failed", passed=False))
        await pilot.press("o")
        await until(pilot, lambda: "What shall it be called" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "without a certificate?" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
    assert started == []


async def test_a_vanished_worker_is_shown_as_lost() -> None:
    run = recorded.trained()
    recorded.write(run, *recorded.started("merge"))
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await until(pilot, lambda: "vanished" in text(app))


async def test_hostile_words_of_a_worker_are_harmless() -> None:
    bad = recorded.HOSTILE
    run = exported(title=bad, compared=bad, figure=bad, limit=bad, remedy=bad, passed=False)
    recorded.write(
        run,
        *recorded.started("gguf"),
        Output(stage="gguf", path=bad, size_bytes=1),
        Failed(stage="gguf", title=bad, detail=bad, hints=(bad,)),
    )
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, run)
        await until(pilot, lambda: "[@click=app.bell]" in text(app))
        assert not set("\x1b\x07\x9b\u202e") & set(text(app))
