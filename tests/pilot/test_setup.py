"""The setup screen: from an empty machine to a started run, and what keeps a run from starting."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import recorded
from driving import text, until
from textual.pilot import Pilot

from engine import gpu, launch, planner, runs
from engine.paths import RunDir, runs_dir
from engine.units import GIB
from tui import messages
from tui.app import FinetuiApp
from tui.modals.error import ErrorModal
from tui.screens.setup import SetupScreen
from tui.screens.setup.choices import CHOICES, change, neighbour, number
from tui.screens.setup.data_step import DataStep
from tui.screens.setup.path_input import DataTree, PathInput, complete
from tui.screens.setup.plan_step import PlanStep
from tui.widgets.plan_form import PlanForm
from tui.widgets.preset_table import PresetTable

Started = list[tuple[RunDir, Sequence[str], Any]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """What the screen asked to start; no worker runs."""
    calls: Started = []
    monkeypatch.setattr(launch, "start", lambda run, stages, options=None: calls.append((run, stages, options)))
    return calls


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of the test may have a card; the test's has none, unless it says so."""
    monkeypatch.setattr(gpu, "read", lambda: gpu.GpuStatus(problem="There is no GPU."))


async def opened(app: FinetuiApp, pilot: Pilot[None]) -> SetupScreen:
    app.post_message(messages.Open("setup"))
    await until(pilot, lambda: isinstance(app.screen, SetupScreen) and app.screen.query_one(PresetTable).rows)
    assert isinstance(app.screen, SetupScreen)
    return app.screen


async def at_data(app: FinetuiApp, pilot: Pilot[None], path: Path) -> SetupScreen:
    """Step two with this path, read."""
    screen = await opened(app, pilot)
    await pilot.press("enter")
    await until(pilot, lambda: "held out" in text(app))
    screen.query_one(PathInput).value = str(path)
    await pilot.press("enter")
    return screen


async def at_plan(app: FinetuiApp, pilot: Pilot[None]) -> SetupScreen:
    screen = await opened(app, pilot)
    await pilot.press("enter", "enter")
    await until(pilot, lambda: screen.step == "plan" and "max length" in text(app))
    return screen


def rows(path: Path, count: int, answer: str = "fine") -> Path:
    lines = [
        json.dumps({"messages": [{"role": "user", "content": f"q{at}"}, {"role": "assistant", "content": answer}]})
        for at in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


async def test_enter_alone_starts_the_demo_on_an_empty_machine(started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot)
        await pilot.press("enter", "enter")  # the model, the bundled data (the second may come before they are read)
        await until(pilot, lambda: "enter starts it" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: started)
    ((run, stages, _),) = started
    plan = runs.load_plan(run)
    assert list(stages) == ["train"]
    lines = Path(plan.data.path).read_text().splitlines()
    assert (plan.preset.name, plan.summary.rows, plan.device) == ("demo", len(lines), "cpu")


async def test_after_the_start_the_training_screen_is_open_and_back_is_home(started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await at_plan(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: type(app.screen).__name__ == "TrainScreen")
        await pilot.press("escape")
        await until(pilot, lambda: type(app.screen).__name__ == "HomeScreen")


async def test_a_second_enter_does_not_start_twice(started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await at_plan(app, pilot)
        await pilot.press("enter", "enter", "enter")
        await until(pilot, lambda: type(app.screen).__name__ == "TrainScreen")
    assert len(started) == 1


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_each_step_fits_the_terminal(size: tuple[int, int], started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        screen = await opened(app, pilot)
        for step in ("model", "data", "plan"):
            await until(pilot, lambda step=step: screen.step == step)
            await pilot.pause(0.3)
            assert [widget for widget in screen.walk_children() if widget.show_horizontal_scrollbar] == []
            assert len(screen.query("FooterKey")) <= 7
            await pilot.press("enter") if step != "plan" else None


async def test_escape_goes_back_step_by_step(started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await at_plan(app, pilot)
        await pilot.press("escape")
        await until(pilot, lambda: screen.step == "data")
        await until(pilot, lambda: screen.query_one(DataStep).check.state == "done")  # else it stops what runs
        await pilot.press("escape")
        await until(pilot, lambda: screen.step == "model")
        await pilot.press("escape")
        await until(pilot, lambda: type(app.screen).__name__ == "HomeScreen")


async def test_without_a_gpu_large_models_say_so(started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot)
        shown = text(app)
        assert "CPU, one minute" in next(line for line in shown.splitlines() if line.strip().startswith("demo"))
        assert "no GPU: too slow" in next(line for line in shown.splitlines() if "llama-3.1-8b" in line)


async def test_with_a_gpu_the_ledger_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "read", lambda: gpu.GpuStatus(gpus=(gpu.pretend(24 * GIB),)))
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot)
        line = next(line for line in text(app).splitlines() if "llama-3.1-8b" in line)
        assert "✓" in line
        assert "to spare" in line


async def test_the_filter_narrows_and_escape_widens(started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot)
        table = screen.query_one(PresetTable)
        everything = len(table.shown)
        await pilot.press("slash", *"qwen3")
        await until(pilot, lambda: 0 < len(table.shown) < everything)
        assert all("qwen3" in row.preset.name for row in table.shown)
        await pilot.press("escape")
        await until(pilot, lambda: len(table.shown) == everything)
        assert screen.step == "model"


async def test_refused_data_do_not_go_on_and_say_why(tmp_path: Path, started: Started) -> None:
    bad = rows(tmp_path / "bad.jsonl", 60)
    bad.write_text(bad.read_text() + "{not json\n")
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await at_data(app, pilot, bad)
        await until(pilot, lambda: "bad.jsonl:61" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "cannot be learned from" in text(app))
        assert screen.step == "data"


async def test_a_missing_file_is_named(tmp_path: Path, started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await at_data(app, pilot, tmp_path / "nothing.jsonl")
        await until(pilot, lambda: "✗" in text(app) and "→" in text(app))


@pytest.mark.parametrize("name", ["~no-such-user/rows.jsonl", "x" * 300], ids=["nobody's home", "too long a name"])
@pytest.mark.parametrize("key", ["enter", "ctrl+t"])
async def test_a_path_that_cannot_be_is_told_not_a_crash(name: str, key: str, started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await at_data(app, pilot, Path(name))
        await until(pilot, lambda: "✗" in text(app))
        await pilot.press(key)
        await pilot.pause(0.2)
        await until(pilot, lambda: "✗" in text(app))
        assert bool(screen.query(DataTree)) == (key == "ctrl+t")


async def test_what_is_learned_is_marked_in_the_sample(tmp_path: Path, started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await at_data(app, pilot, rows(tmp_path / "mine.jsonl", 60, "the answer"))
        await until(pilot, lambda: "the answer" in text(app))
        styles = {
            segment.text.strip(): segment.style
            for strip in app.screen._compositor.render_strips()
            for segment in strip
            if segment.style is not None
        }
        assert styles["the answer"].underline
        assert not styles["q0"].underline


async def test_hostile_rows_are_shown_harmless(tmp_path: Path, started: Started) -> None:
    path = rows(
        tmp_path / "hostile [@click=app.bell].jsonl", 60, recorded.HOSTILE.rstrip("\ud800")
    )  # half a character is refused
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await at_data(app, pilot, path)
        await until(pilot, lambda: "[@click=app.bell]" in text(app))
        assert "\x1b" not in text(app)
        await pilot.press("enter")
        await until(pilot, lambda: screen.step == "plan")
        await until(pilot, lambda: "hostile [@click=app.bell].jsonl" in text(app))


async def test_the_tree_chooses_a_file(tmp_path: Path, started: Started) -> None:
    mine = rows(tmp_path / "mine.jsonl", 77)
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await at_data(app, pilot, tmp_path / "m")
        await pilot.press("ctrl+t")
        await until(pilot, lambda: "mine.jsonl" in text(app))
        tree = screen.query_one(DataTree)
        tree.post_message(DataTree.FileSelected(tree.root, mine))
        await until(pilot, lambda: "held out" in text(app) and not screen.query(DataTree))
        assert screen.query_one(PathInput).value == str(mine)


@pytest.mark.parametrize("key", ["enter", "escape"])
async def test_a_file_with_a_harmful_name_is_read_and_shown_harmless(
    tmp_path: Path, started: Started, key: str
) -> None:
    mine = rows(tmp_path / "mine\x1b[2J\x07.jsonl", 60)
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await at_data(app, pilot, tmp_path / "m")
        await pilot.press("ctrl+t")
        tree = screen.query_one(DataTree)
        tree.post_message(DataTree.FileSelected(tree.root, mine))
        await until(pilot, lambda: "held out" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: screen.step == "plan")
        assert screen.draft.data is not None
        assert screen.draft.data.path == str(mine)
        if key == "escape":  # back, and on again
            await pilot.press("escape")
            await until(pilot, lambda: screen.step == "data")
            await pilot.press("enter")
            await until(pilot, lambda: screen.step == "plan")
        assert not {"\x1b", "\x07"} & set(text(app))
        screen.query_one(PlanForm).focus()
        await pilot.press("enter")
        await until(pilot, lambda: started)
    assert runs.load_plan(started[0][0]).data.path == str(mine)


async def test_a_name_that_is_no_text_is_refused_with_what_to_do(tmp_path: Path, started: Started) -> None:
    mine = rows(tmp_path / "mine.jsonl", 60).rename(tmp_path / os.fsdecode(b"mine\xff.jsonl"))
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await at_data(app, pilot, tmp_path / "m")
        await pilot.press("ctrl+t")
        tree = screen.query_one(DataTree)
        tree.post_message(DataTree.FileSelected(tree.root, mine))
        await until(pilot, lambda: "rename it" in text(app))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_plan_says_about_how_long_it_takes(size: tuple[int, int], started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        await at_plan(app, pilot)
        await until(pilot, lambda: re.search(r"time +about \d+ m", text(app)))


async def test_a_change_in_the_form_is_planned_at_once(started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await at_plan(app, pilot)
        form = screen.query_one(PlanForm)
        form.cursor = [row.name for row in form.rows].index("lora.rank")
        await pilot.press("right")
        await until(pilot, lambda: "32 / 64" in text(app))
        assert "--set lora.rank=32 lora.alpha=64" in screen.draft.command
        await pilot.press("left")
        await until(pilot, lambda: "16 / 32" in text(app))
        assert screen.draft.changes == {}


async def test_every_setting_can_be_edited_as_text(started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await at_plan(app, pilot)
        await pilot.press("a", "enter")
        await pilot.press(*["backspace"] * 8, *"3e-3", "enter", "escape")
        await until(pilot, lambda: app.screen is screen and "3e-3" in text(app))
        assert screen.draft.tuned is not None
        assert screen.draft.tuned.train.learning_rate == 3e-3


async def test_a_wrong_value_is_refused_in_words(started: Started) -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await at_plan(app, pilot)
        await pilot.press("a", "enter")
        await pilot.press(*["backspace"] * 8, *"much", "enter")
        await until(pilot, lambda: "✗" in text(app) and "learning_rate" in text(app))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: app.screen is screen)
        assert screen.draft.changes == {}


async def test_what_does_not_fit_is_refused_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, started: Started
) -> None:
    monkeypatch.setattr(gpu, "read", lambda: gpu.GpuStatus(gpus=(gpu.pretend(GIB // 2),)))
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await at_plan(app, pilot)
        await until(pilot, lambda: "does not fit" in text(app) and "saves" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorModal))
    assert started == []
    assert not runs_dir().exists()


async def test_a_worker_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.errors import RunError

    def fail(*_: object) -> None:
        raise RunError("The worker ended before it could begin", "no [/such] module", ("See the log.",))

    monkeypatch.setattr(launch, "start", fail)
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await at_plan(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorModal) and "[/such]" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "enter starts it" in text(app))


def test_the_command_line_makes_the_same_plan(tmp_path: Path) -> None:
    import shlex

    from engine.config import DatasetSpec
    from engine.presets import find_preset
    from tui.screens.setup.draft import Draft

    data = DatasetSpec(path=str(tmp_path / "my data.jsonl"))
    draft = Draft(find_preset("demo"), data, None, {"train.epochs": "2"})
    words = shlex.split(draft.command)
    assert words == ["finetui", "train", "--preset", "demo", "--data", data.path, "--set", "train.epochs=2"]


def test_completion_offers_folders_and_data_files_only(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "support.jsonl").touch()
    (tmp_path / "data" / "support.bin").touch()
    (tmp_path / "data" / "su\x1b[2Jx.jsonl").touch()
    assert complete(f"{tmp_path}/da") == f"{tmp_path}/data/"
    assert complete(f"{tmp_path}/data/su") == f"{tmp_path}/data/support.jsonl"
    assert complete(f"{tmp_path}/data/x") is None
    assert complete("/no/such/folder/x") is None


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.setting)
def test_one_step_up_and_down_leads_back(choice: Any) -> None:
    from engine.presets import find_preset, override

    preset = find_preset("llama-3.1-8b-instruct")
    up = override(preset, change(preset, choice.setting, 1))
    down = override(up, change(up, choice.setting, -1))
    assert choice.value(down) == choice.value(preset)


def test_the_micro_batch_leaves_the_effective_batch() -> None:
    from engine.presets import find_preset, override

    preset = find_preset("llama-3.1-8b-instruct")
    train = override(preset, change(preset, "train.micro_batch_size", 1)).train
    before = preset.train
    assert train.micro_batch_size > before.micro_batch_size
    assert (
        train.micro_batch_size * train.gradient_accumulation_steps
        == before.micro_batch_size * before.gradient_accumulation_steps
    )


def test_numbers_are_written_as_people_write_them() -> None:
    assert [number(value) for value in (2e-4, 1e-5, 3.0, 0.03, 1.5)] == ["2e-4", "1e-5", "3", "0.03", "1.5"]


def test_the_ladder_ends() -> None:
    assert (neighbour((1, 2, 4), 4, 1), neighbour((1, 2, 4), 1, -1), neighbour((1, 2, 4), 3, -1)) == (4, 1, 2)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_every_fact_of_a_preset_can_be_reached(size: tuple[int, int]) -> None:
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        screen = await opened(app, pilot)
        screen.query_one(PresetTable).choose("gemma-2-9b-it")
        await until(pilot, lambda: "Gemma 2 9B" in text(app))
        seen = text(app)
        await pilot.press("tab", "end")
        await pilot.pause(0.4)
        seen += text(app)
        for fact in ("no GGUF yet", "gated", "prohibited uses", "8,192", "<end_of_turn>", "rank 16"):
            assert fact in " ".join(seen.split()), fact


async def test_a_setting_by_hand_is_marked_and_r_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "read", lambda: gpu.GpuStatus(gpus=(gpu.pretend(24 * GIB),)))
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await at_plan(app, pilot)
        form, step = screen.query_one(PlanForm), screen.query_one(PlanStep)
        await until(pilot, lambda: step.plan is not None and step.plan.gpu is not None)
        assert "chosen: fastest that fits" in text(app)
        before = {row.name: row.value for row in form.rows}
        form.cursor = [row.name for row in form.rows].index(planner.SWITCH)
        await pilot.press("right")
        await until(pilot, lambda: form.rows[form.cursor].changed)
        assert form.rows[form.cursor].value == "every 4th layer"
        assert "by hand" in text(app)
        assert "train.gradient_checkpointing_every=4" in step.command
        await pilot.press("r")
        await until(pilot, lambda: {row.name: row.value for row in form.rows} == before)
        assert screen.draft.changes == {}


async def test_f_makes_it_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "read", lambda: gpu.GpuStatus(gpus=(gpu.pretend(int(0.6 * GIB)),)))
    app = FinetuiApp()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await at_plan(app, pilot)
        step = screen.query_one(PlanStep)
        await until(pilot, lambda: step.plan is not None and step.plan.gpu is not None)
        longer = {"train.max_length": "512", planner.MICRO: "32", planner.PASSES: "1"}
        step.apply({**longer, **planner.POLICIES[0].changes})
        await until(pilot, lambda: "too much" in text(app) and "f makes it fit" in text(app))
        await pilot.press("f")
        await until(pilot, lambda: step.plan is not None and step.plan.vram.fits)
        await until(pilot, lambda: "too much" not in text(app))


async def test_cut_rows_are_told_as_the_length_moves() -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: screen.step == "data" and screen.query_one(DataStep).check.state == "done")
        await pilot.press("enter")
        await until(pilot, lambda: screen.step == "plan" and "no row is cut" in text(app))
        screen.query_one(PlanStep).apply({"train.max_length": "32"})
        await until(pilot, lambda: "rows cut" in text(app) or "row cut" in text(app) or "rows left" in text(app))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_each_setting_tells_its_help_its_default_and_why(size: tuple[int, int]) -> None:
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        screen = await at_plan(app, pilot)
        form = screen.query_one(PlanForm)
        assert [row.name for row in form.rows] == [choice.setting for choice in CHOICES]
        for row in form.rows:
            assert row.help.endswith(".")
            assert row.default.startswith(f"Default {row.value}: ")
