"""The data step over the real check in its child process, with real files: what a person sees, presses and gets."""

from __future__ import annotations

import asyncio
import csv
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import recorded
from driving import text, until
from hub import Hub
from textual.pilot import Pilot

from engine import gpu, launch, runs
from engine.config import DatasetSpec
from engine.datasets.report import TokenStats
from engine.paths import home
from tui import messages
from tui.app import FinetuiApp
from tui.modals.ask import AskModal
from tui.modals.columns import ColumnsModal, mapped_parts, mapping_text
from tui.screens.setup import SetupScreen
from tui.screens.setup.data_source import named
from tui.screens.setup.data_step import DataStep
from tui.screens.setup.data_view import RowScroll
from tui.screens.setup.pace import Pace
from tui.screens.setup.path_input import DataTree
from tui.screens.setup.plan_step import PlanStep
from tui.screens.setup.recent import RecentList, recent_data, recent_file, remember
from tui.widgets.clean_input import CleanInput
from tui.widgets.finding_list import FindingList
from tui.widgets.length_histogram import describe_cut
from tui.widgets.plan_form import PlanForm
from tui.widgets.preset_table import PresetTable

WIDE, NARROW = (120, 40), (80, 24)


@pytest.fixture(autouse=True)
def no_gpu_and_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "read", lambda: gpu.GpuStatus(problem="There is no GPU."))
    monkeypatch.setattr(launch, "start", lambda run, stages, options=None: None)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """However a test ends, no process that reads data outlives the app."""
    yield
    end = time.monotonic() + 10
    while children():
        assert time.monotonic() < end, children()
        time.sleep(0.05)


def children() -> list[psutil.Process]:
    """The processes that check data for this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "engine.datasets.serve" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def bars(screen: SetupScreen) -> list[Any]:
    """The widgets that show a bar to scroll sideways."""
    return [w for w in screen.walk_children() if w.show_horizontal_scrollbar and w.scrollbar_size_horizontal]


def chat(question: str, answer: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """300 rows; row 51 has an answer of one word, rows 201 and 202 are the same; each tenth is long."""
    words = random.Random(3)
    lines = [
        chat(f"Question {at}: " + "why " * words.randint(1, 9) * (9 if at % 10 == 0 else 1), f"The answer is {at * 7}.")
        for at in range(300)
    ]
    lines[50] = chat("One word, please.", "ok")
    lines[201] = lines[200]
    return write(tmp_path / "good.jsonl", lines)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Some seconds of tokens."""
    return write(tmp_path / "large.jsonl", [chat(f"{at} " + "many words " * 40, f"No {at}.") for at in range(30_000)])


@contextmanager
def heavy(tmp_path: Path) -> Iterator[Path]:
    """Seconds of reading."""
    path = tmp_path / "heavy.jsonl"
    block = "".join(chat(f"{at}", "a long answer " * 150) + "\n" for at in range(4_000))
    with path.open("w") as file:
        for _ in range(25):
            file.write(block)
    try:
        yield path
    finally:
        path.unlink()


class Opened:
    """The app at the data step."""

    def __init__(self, app: FinetuiApp, pilot: Pilot[None], screen: SetupScreen) -> None:
        self.app, self.pilot, self.screen = app, pilot, screen
        self.step = screen.query_one(DataStep)

    async def until(self, true: Any, seconds: float = 20) -> None:
        await until(self.pilot, true, seconds)

    async def read(self, path: Path | str) -> None:
        """Type a path over what stands there, and wait until all is known."""
        await self.type(path)
        await self.until(lambda: self.step.check.state == "done" and self.step.view.row is not None)
        await self.until(lambda: self.app.focused is self.screen.query_one(FindingList))
        await self.until(lambda: "─ row 1 of " in self.shown)

    async def type(self, path: Path | str) -> None:
        self.step.source.line.focus()
        self.step.source.line.value = str(path)
        await self.pilot.press("enter")
        await self.until(lambda: self.step.check.asked is not None and self.step.check.asked.path == str(path))

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    @property
    def shown(self) -> str:
        return text(self.app)

    @property
    def keys(self) -> list[str]:
        return [str(key.description) for key in self.app.screen.query("FooterKey")]  # type: ignore[attr-defined]


class at_data:
    """`async with at_data() as opened`: step two of a new run of the demo."""

    def __init__(self, size: tuple[int, int] = WIDE) -> None:
        self._size = size

    async def __aenter__(self) -> Opened:
        app = FinetuiApp()
        self._running = app.run_test(size=self._size)
        pilot = await self._running.__aenter__()
        app.post_message(messages.Open("setup"))
        await until(pilot, lambda: isinstance(app.screen, SetupScreen) and app.screen.query_one(PresetTable).rows)
        assert isinstance(app.screen, SetupScreen)
        opened = Opened(app, pilot, app.screen)
        await pilot.press("enter")
        await until(pilot, lambda: opened.screen.step == "data" and opened.step.check.readable)
        return opened

    async def __aexit__(self, *error: object) -> None:
        await self._running.__aexit__(*error)  # type: ignore[arg-type]


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_figures_findings_lengths_and_a_row_are_on_one_screen(good: Path, size: tuple[int, int]) -> None:
    async with at_data(size) as opened:
        await opened.read(good)
        shown = opened.shown
        assert "messages (detected)   288 rows · 12 held out" in shown
        assert "! 1 answer is a single word   good.jsonl:51" in shown
        assert "median" in shown
        assert "┊ 128" in shown
        assert "row 1 of 300 · good.jsonl:1" in shown
        assert "<|begin_of_text|>" in shown


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_nothing_scrolls_sideways_and_seven_keys_are_enough(good: Path, size: tuple[int, int]) -> None:
    async with at_data(size) as opened:
        await opened.read(good)
        for focused in (
            opened.step.source.line,
            opened.screen.query_one(FindingList),
            opened.screen.query_one(RowScroll),
        ):
            focused.focus()
            await opened.pilot.pause(0.1)
            assert bars(opened.screen) == []
            assert len(opened.keys) <= 7
            assert opened.screen.query_one(RowScroll).size.height >= 3


async def test_the_footer_names_the_keys_of_rows_findings_and_limit(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        await opened.until(lambda: opened.keys == ["Next", "Limit", "Row", "Finding", "Fix", "Back", "Help"])


async def test_data_can_be_accepted_while_tokens_are_still_counted(large: Path) -> None:
    async with at_data() as opened:
        await opened.type(large)
        await opened.until(lambda: opened.step.check.state == "deeper")
        assert "counting tokens" in opened.shown
        await opened.press("enter")
        await opened.until(lambda: opened.screen.step == "plan")
        assert opened.screen.draft.report is not None
        assert opened.screen.draft.report.complete


async def test_escape_stops_the_tokens_and_keeps_what_is_known(large: Path) -> None:
    async with at_data() as opened:
        await opened.type(large)
        await opened.until(lambda: opened.step.check.report and opened.step.check.report.tokens)
        await opened.press("escape")
        await opened.until(lambda: opened.step.check.state == "done")
        stats = opened.step.check.report.tokens  # type: ignore[union-attr]
        assert stats is not None
        assert 0 < stats.rows < stats.of_rows
        assert opened.screen.step == "data"
        await opened.press("escape")  # now there is nothing to stop
        await opened.until(lambda: opened.screen.step == "model")


async def test_escape_stops_the_reading_and_the_app_answers_meanwhile(tmp_path: Path) -> None:
    with heavy(tmp_path) as path:
        async with at_data() as opened:
            await opened.type(path)
            await opened.until(lambda: "reading ▕" in opened.shown)
            began = time.monotonic()
            await asyncio.sleep(0.01)
            assert time.monotonic() - began < 0.5
            await opened.press("escape")
            await opened.until(lambda: "Reading was stopped" in opened.shown)
            assert not opened.step.check.readable
            await opened.press("enter")  # once more
            await opened.until(lambda: opened.step.check.state == "reading")


async def test_a_report_of_other_data_is_not_shown_for_new_ones(good: Path, large: Path) -> None:
    async with at_data() as opened:
        await opened.type(large)
        await opened.type(good)
        await opened.until(lambda: opened.step.check.state == "done")
        assert "300" in opened.shown
        assert opened.step.check.report is not None
        assert opened.step.check.report.path == str(good)


# ── no process is left behind ────────────────────────────────────────────────────────────────────────────


async def test_leaving_the_step_ends_the_child_and_coming_back_shows_rows_again(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        assert len(children()) == 1
        await opened.press("enter")
        await opened.until(lambda: opened.screen.step == "plan")
        await opened.until(lambda: not children())
        await opened.press("escape")
        await opened.until(lambda: opened.screen.step == "data")
        assert "median" in opened.shown  # what was known is there at once
        opened.step.view.focus_view()
        await opened.press("n")
        await opened.until(lambda: "row 2 of 300" in opened.shown)
        for _ in range(100):  # what needs tokens to be found is found again, without a word
            await opened.press("g", "right_square_bracket")
            await opened.pilot.pause(0.1)
            if "! row is longer than max_length" in opened.shown:
                break
        assert "! row is longer than max_length" in opened.shown
        await opened.press("escape")
        await opened.until(lambda: opened.screen.step == "model")


async def test_leaving_the_screen_ends_the_child(large: Path) -> None:
    async with at_data() as opened:
        await opened.type(large)
        await opened.until(children)
        opened.app.pop_screen()
        await opened.until(lambda: not children())


async def test_quitting_the_app_ends_the_child(large: Path) -> None:
    async with at_data() as opened:
        await opened.type(large)
        await opened.until(children)
    assert psutil.wait_procs(children(), timeout=10)[1] == []


# ── the limit ────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_limit_moves_with_the_arrow_keys_says_its_cost_and_reaches_the_plan(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        stats = opened.step.check.report.tokens  # type: ignore[union-attr]
        assert stats is not None
        await opened.press("left")
        await opened.until(lambda: "‹ 64 ›" in opened.shown)
        assert f"! {stats.cut(64).rows} rows cut" in opened.shown
        assert f"{stats.cut(64).rows} rows are longer than max_length 64" in opened.shown
        assert opened.screen.draft.changes == {"train.max_length": "64"}
        await opened.press("enter")
        await opened.until(lambda: opened.screen.step == "plan" and "max length" in opened.shown)
        line = next(line for line in opened.shown.splitlines() if "max length" in line)
        assert "64" in line


async def test_a_limit_that_is_moved_back_is_the_presets_own(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        await opened.press("right", "left")
        assert opened.screen.draft.changes == {}


async def test_a_limit_changed_in_the_plan_is_seen_when_coming_back(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        await opened.press("enter")
        await opened.until(lambda: opened.screen.step == "plan")
        await opened.press("right", "escape")  # the first row of the form is the length
        await opened.until(lambda: opened.screen.step == "data" and "‹ 256 ›" in opened.shown)


async def test_a_row_is_cut_where_the_limit_stands(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        assert "max_length cuts here" not in opened.shown
        await opened.press("left", "left", "left")  # what the demo's template alone takes
        await opened.until(lambda: "‹ 64 ›" in opened.shown and "max_length cuts here" in opened.shown)
        await opened.press("right", "right")
        await opened.until(lambda: "max_length cuts here" not in opened.shown)


async def test_a_setting_of_the_data_that_is_changed_in_the_plan_is_checked_anew(good: Path, tmp_path: Path) -> None:
    general = write(tmp_path / "general.jsonl", [chat(f"General {at}?", f"In general {at}.") for at in range(60)])
    async with at_data() as opened:
        await opened.read(good)
        await opened.press("enter")
        await opened.until(lambda: opened.screen.step == "plan")
        opened.screen.query_one(PlanStep).apply({"data.mix_path": str(general)})
        await opened.until(lambda: opened.screen.step == "data" and "mixed in" in opened.shown)
        opened.step.view.focus_view()
        await opened.press("enter")
        await opened.until(lambda: opened.screen.step == "plan" and opened.screen.query_one(PlanStep).plan is not None)
        plan = opened.screen.query_one(PlanStep).plan
        assert plan is not None
        assert plan.data.mix_path == str(general)
        assert plan.summary.mix_rows > 0
        assert f"--set data.mix_path={general}" in opened.screen.draft.command


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_rows_are_walked_through_with_single_keys(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        for keys, number in ((["n", "n"], 3), (["p"], 2), (["G"], 300), (["n"], 300), (["g"], 1), (["p"], 1)):
            await opened.press(*keys)
            await opened.until(lambda number=number: f"row {number} of 300 · good.jsonl:{number} " in opened.shown)


async def test_a_row_is_gone_to_by_its_number(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        await opened.press("colon")
        await opened.until(lambda: isinstance(opened.app.screen, AskModal))
        await opened.press(*"123", "enter")
        await opened.until(lambda: "row 123 of 300" in opened.shown)


async def test_brackets_go_from_finding_to_finding(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        await opened.press("right", "right")  # no row is too long for this limit
        await opened.press("right_square_bracket")
        await opened.until(lambda: "row 51 of 300" in opened.shown and "! answer is a single word" in opened.shown)
        await opened.press("right_square_bracket")
        await opened.until(lambda: "row 202 of 300" in opened.shown)
        await opened.press("left_square_bracket")
        await opened.until(lambda: "row 51 of 300" in opened.shown)


async def test_keys_work_in_the_row_too_and_a_long_row_scrolls(tmp_path: Path) -> None:
    path = write(tmp_path / "long.jsonl", [chat(f"{at}", "line\n" * 200) for at in range(60)])
    async with at_data() as opened:
        await opened.read(path)
        await opened.press("tab")
        scroll = opened.screen.query_one(RowScroll)
        assert scroll.has_focus
        await opened.press("down", "down", "down")
        await opened.until(lambda: scroll.scroll_y > 0)
        await opened.press("n")
        await opened.until(lambda: "row 2 of 60" in opened.shown)
        assert scroll.scroll_y == 0


async def test_a_row_that_cannot_be_used_is_shown_as_it_stands(tmp_path: Path) -> None:
    lines = [chat(f"q{at}", "a whole answer") for at in range(60)]
    lines[3] = "{not json"
    async with at_data() as opened:
        await opened.read(write(tmp_path / "bad.jsonl", lines))
        await opened.press("right_square_bracket")
        await opened.until(lambda: "row 4 of 60" in opened.shown)
        assert "! row is not JSON" in opened.shown
        assert "{not json" in opened.shown


async def test_hostile_text_in_a_row_is_shown_harmless(tmp_path: Path) -> None:
    said = recorded.HOSTILE.rstrip("\ud800")
    async with at_data() as opened:
        await opened.read(write(tmp_path / "h.jsonl", [chat(f"{at} {said}", said) for at in range(60)]))
        assert "[@click=app.bell]press[/] see [/some/path]" in opened.shown
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(opened.shown)


# ── typing ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_letters_in_the_path_are_letters(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        before = opened.step.view.row
        await opened.press("o", *"nfmgpG")
        await opened.pilot.pause(0.2)
        assert opened.step.source.line.value == "nfmgpG"  # what stood there was selected, and is typed over
        assert opened.step.view.row == before
        assert isinstance(opened.app.screen, SetupScreen)


async def test_down_and_tab_lead_from_the_path_to_what_was_found(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        for key in ("down", "tab"):
            opened.step.source.line.focus()
            await opened.press(key)
            assert opened.screen.query_one(FindingList).has_focus
        await opened.press("up")
        assert opened.step.source.line.has_focus


# ── recent data ──────────────────────────────────────────────────────────────────────────────────────────


async def test_an_empty_path_offers_the_data_of_runs_newest_first(good: Path) -> None:
    plan = recorded.a_plan()
    for name, at in (("old", 1000.0), ("new", 2000.0)):
        data = DatasetSpec(path=str(write(good.with_name(f"{name}.jsonl"), good.read_text().splitlines())))
        runs.create(plan.model_copy(update={"data": data, "created_t": at, "slug": name}))
    async with at_data() as opened:
        await opened.press("ctrl+u")
        await opened.until(lambda: "old.jsonl" in opened.shown)
        names = [line.split()[0] for line in opened.shown.splitlines() if ".jsonl" in line]
        assert names == ["new.jsonl", "old.jsonl"]
        await opened.press("down", "down", "enter")
        await opened.until(lambda: opened.step.check.asked and opened.step.check.asked.path.endswith("old.jsonl"))
        assert not opened.screen.query_one(RecentList).display


async def test_what_was_accepted_is_remembered_with_its_format(good: Path) -> None:
    data = DatasetSpec(path=str(good), format="messages")
    remember(data)
    remember(DatasetSpec(path=str(good.with_name("gone.jsonl"))))
    assert [recent.data for recent in recent_data()] == [data]


def test_a_damaged_list_of_recent_data_is_an_empty_one(own_home: Path) -> None:
    own_home.mkdir()
    for damaged in ("{", "[1]", '[{"t": 1, "data": {"path": 3}}]', "\x00"):
        recent_file().write_text(damaged)
        assert recent_data() == []


# ── how the rows are written ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "faq.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "body", "solution"])
        out.writerows([at, f"Customer {at} asks", f"It is on its way, number {at}."] for at in range(90))
    return path


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_columns_are_mapped_in_a_form_with_a_preview(table: Path, size: tuple[int, int]) -> None:
    async with at_data(size) as opened:
        await opened.read(table)
        assert "press m" in opened.shown
        await opened.press("m")
        await opened.until(lambda: isinstance(opened.app.screen, ColumnsModal))
        await opened.press("down", "right", "right")  # body: user
        await opened.press("down", "right", "right", "right")  # solution: assistant
        await opened.until(lambda: "assistant  It is on its way, number 0." in opened.shown)
        await opened.press("enter")
        await opened.until(lambda: "columns (as you chose)" in opened.shown and opened.step.check.state == "done")
        await opened.until(lambda: opened.screen.query_one(FindingList).has_focus)
        await opened.press("enter")
        await opened.until(lambda: opened.screen.step == "plan")
        assert opened.screen.draft.data is not None
        assert opened.screen.draft.data.columns == "user=body, assistant=solution"
        assert "--columns 'user=body, assistant=solution'" in opened.screen.draft.command


async def test_a_mapping_that_makes_no_row_is_not_taken(table: Path) -> None:
    async with at_data() as opened:
        await opened.read(table)
        await opened.press("m")
        await opened.until(lambda: isinstance(opened.app.screen, ColumnsModal))
        await opened.press("down", "right", "right", "enter")
        await opened.pilot.pause(0.1)
        assert isinstance(opened.app.screen, ColumnsModal)


async def test_escape_in_the_form_leaves_everything_as_it_was(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        before, asked = opened.step.check.report, opened.step.check.asked
        await opened.press("m")
        await opened.until(lambda: isinstance(opened.app.screen, ColumnsModal))
        await opened.press("right", "down", "right", "escape")
        await opened.until(lambda: opened.app.screen is opened.screen)
        assert opened.step.check.report is before
        assert opened.step.check.asked is asked


async def test_a_format_can_be_forced_and_is_named_as_chosen(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        await opened.press("m")
        await opened.until(lambda: isinstance(opened.app.screen, ColumnsModal))
        await opened.press("right", "enter")  # the first behind auto
        await opened.until(lambda: "messages (as you chose)" in opened.shown)


async def test_preference_rows_are_named_and_their_chosen_answers_can_be_learned(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{at}?", "chosen": f"A good answer {at}.", "rejected": "No."} for at in range(70)]
    async with at_data() as opened:
        await opened.read(write(tmp_path / "p.jsonl", list(map(json.dumps, rows))))
        assert "Preference rows are not learned as such: press m" in opened.shown
        await opened.press("m")
        await opened.until(lambda: isinstance(opened.app.screen, ColumnsModal))
        assert opened.app.screen.query_one(PlanForm).rows[0].value == "chosen"
        await opened.press("enter")
        await opened.until(lambda: "chosen (as you chose)" in opened.shown and "▐A good answer 0.<" in opened.shown)


# ── a cleaned copy ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_cleaned_copy_is_written_beside_and_taken(good: Path) -> None:
    broken = write(good, [*good.read_text().splitlines(), "{not json"])
    original = broken.read_bytes()
    write(broken.with_name("good.clean.jsonl"), ["taken"])
    async with at_data() as opened:
        await opened.read(broken)
        assert "✗ 1 row is not JSON" in opened.shown
        await opened.press("f")
        await opened.until(lambda: isinstance(opened.app.screen, AskModal) and "good.clean2.jsonl" in opened.shown)
        await opened.press("enter")
        await opened.until(lambda: "good.clean2.jsonl: 299 rows written" in opened.shown)
        await opened.until(lambda: opened.step.check.state == "done")
        assert "1 exact duplicate" in opened.shown
        assert opened.step.check.report is not None
        assert not opened.step.check.report.refused
    assert broken.read_bytes() == original


async def test_a_copy_over_a_file_is_refused(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        await opened.press("f")
        await opened.until(lambda: isinstance(opened.app.screen, AskModal))
        opened.app.screen.query_one(CleanInput).value = str(good)
        await opened.press("enter")
        await opened.until(lambda: type(opened.app.screen).__name__ == "ErrorModal")
        assert opened.step.check.asked == DatasetSpec(path=str(good))


async def test_data_with_nothing_to_clean_offer_no_copy(tmp_path: Path) -> None:
    path = write(tmp_path / "fine.jsonl", [chat(f"q{at}", f"a whole answer {at}") for at in range(300)])
    async with at_data() as opened:
        await opened.read(path)
        assert "Fix" not in opened.keys
        await opened.press("f")
        await opened.pilot.pause(0.1)
        assert opened.app.screen is opened.screen


# ── other sources ────────────────────────────────────────────────────────────────────────────────────────


async def test_the_tree_shows_data_of_all_kinds_and_takes_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a.parquet", "b.csv", "c.md", "d.bin"):
        (folder / name).touch()
    async with at_data() as opened:
        opened.step.source.line.value = f"{folder}/"
        await opened.press("ctrl+t")
        await opened.until(lambda: "c.md" in opened.shown)
        assert "a.parquet" in opened.shown
        assert "d.bin" not in opened.shown
        chosen: list[str] = []
        opened.step.source.line.take = lambda path: chosen.append(path)  # type: ignore[method-assign]
        await opened.press("space")
        await opened.until(lambda: chosen)
        assert chosen == [str(folder)]
        assert not opened.screen.query(DataTree)


def test_a_line_may_name_what_to_take_of_a_data_set_of_the_hub(tmp_path: Path) -> None:
    assert named("org/name subset=en split=train[:1000]") == DatasetSpec(
        path="org/name", subset="en", split="train[:1000]"
    )
    assert named("some folder/my subset=1.jsonl").path.endswith("/some folder/my subset=1.jsonl")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as hub:
        for name, value in hub.environment(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.mark.slow
async def test_a_data_set_of_the_hub_is_fetched_and_read(hub: Hub, good: Path) -> None:
    hub.add("org/chat", {"train.jsonl": good.read_text()})
    async with at_data() as opened:
        await opened.type("org/chat")
        await opened.until(lambda: opened.step.check.state == "done", 60)
        assert "288 rows" in opened.shown
        await opened.press("enter")
        await opened.until(lambda: opened.screen.step == "plan")
        data = opened.screen.draft.data
        assert data is not None
        assert Path(data.path).parent == home() / "datasets"
        assert data.source.startswith("hf://datasets/org/chat@")
        assert recent_data()[0].data.path == "org/chat"


@pytest.mark.slow
async def test_a_fetch_can_be_cancelled(hub: Hub, good: Path) -> None:
    hub.add("org/chat", {"train.jsonl": good.read_text() * 50})
    hub.bytes_per_s = 20_000
    async with at_data() as opened:
        await opened.type("org/chat")
        await opened.until(lambda: opened.step.check.state == "fetching", 60)
        await opened.press("escape")
        await opened.until(lambda: "Reading was stopped" in opened.shown)
        await opened.until(lambda: not importing())
        assert not opened.step.check.readable


def importing() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and "import_data" in " ".join(process.cmdline())
    ]


# ── data that change, a child that dies, a line that says something else ─────────────────────────────────


async def test_a_file_that_was_corrected_is_read_again_not_taken_as_it_was(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        write(good, [chat(f"Another question {at}", f"Another answer {at}.") for at in range(120)])
        await opened.press("enter")
        await opened.until(lambda: "row 1 of 120" in opened.shown)
        assert "The file has changed since it was read" in opened.shown
        assert opened.screen.step == "data"


async def test_a_row_of_a_file_that_changed_is_not_shown_from_the_wrong_place(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        write(good, good.read_text().splitlines()[3:])
        await opened.press("n")
        await opened.until(lambda: "row 1 of 297" in opened.shown)


async def test_a_file_that_is_gone_is_not_taken(good: Path) -> None:
    async with at_data() as opened:
        await opened.read(good)
        good.unlink()
        await opened.press("enter")
        await opened.until(lambda: "There is no such data file" in opened.shown)
        assert opened.screen.step == "data"


async def test_a_child_that_dies_while_it_counts_is_told_of_and_rows_are_shown_again(large: Path) -> None:
    async with at_data() as opened:
        await opened.type(large)
        await opened.until(lambda: opened.step.check.state == "deeper" and children())
        children()[0].kill()
        await opened.until(lambda: "The process that reads the data died" in opened.shown)
        opened.step.view.focus_view()
        await opened.press("n")
        await opened.until(lambda: "row 2 of 30,000" in opened.shown)


async def test_enter_among_the_findings_takes_what_stands_in_the_line_not_what_was_read_before(
    good: Path, table: Path
) -> None:
    async with at_data() as opened:
        await opened.read(good)
        opened.step.source.line.value = str(table)
        await opened.until(lambda: "what stands below is still good.jsonl" in opened.shown)
        await opened.press("enter")
        await opened.until(lambda: "row 1 of 90" in opened.shown)
        assert opened.screen.step == "data"


async def test_keys_that_would_be_letters_are_not_named_while_one_types() -> None:
    async with at_data() as opened:
        await opened.until(lambda: "tab to findings" in opened.shown)
        assert "o other data" not in opened.shown
        await opened.press("tab")
        await opened.until(lambda: "o other data" in opened.shown)


async def test_enter_before_all_is_read_says_what_comes(tmp_path: Path) -> None:
    with heavy(tmp_path) as path:
        async with at_data() as opened:
            await opened.type(path)
            await opened.press("enter")
            await opened.until(lambda: "esc stops · then the plan" in opened.shown)


async def test_what_is_not_known_before_all_is_read_is_not_made_up() -> None:
    said: list[str] = []
    async with at_data() as opened:
        await opened.until(lambda: "read in" in opened.shown)
        opened.app.notify = lambda message, **_: said.append(message)  # type: ignore[method-assign, assignment]
        opened.step.check.state, opened.step.view.rows = "reading", 0
        opened.step.view.focus_view()
        await opened.press("G", "right_square_bracket")
        await opened.until(lambda: len(said) == 2)
        assert "Which row is the last" in said[0]
        assert "so far" in said[1]


async def test_coming_back_before_all_was_counted_says_what_runs_and_escape_ends_it_at_once(tmp_path: Path) -> None:
    with heavy(tmp_path) as path:
        async with at_data() as opened:
            await opened.type(path)
            await opened.press("enter")
            await opened.until(lambda: opened.screen.step == "plan")
            await opened.press("escape")
            await opened.until(lambda: "reading again" in opened.shown)
            assert "then the plan" not in opened.shown
            await opened.press("escape")
            assert opened.step.check.state == "done"
            await opened.until(lambda: "read in" in opened.shown)
            assert opened.screen.step == "data"


async def test_rows_that_only_a_lowered_limit_cuts_are_found(tmp_path: Path) -> None:
    lines = [chat(f"Question {at}", "short and good") for at in range(100)]
    lines[40] = chat("Question 40", "longer " * 25)
    async with at_data() as opened:
        await opened.read(write(tmp_path / "one.jsonl", lines))
        await opened.press("left", "left", "left")
        await opened.until(lambda: "1 row cut" in opened.shown)
        await opened.press("right_square_bracket")
        await opened.until(
            lambda: "row 41 of 100" in opened.shown and "! row is longer than max_length" in opened.shown
        )
        await opened.press("G", "left_square_bracket")
        await opened.until(lambda: "row 41 of 100" in opened.shown)


async def test_a_file_of_blank_lines_asks_for_no_columns(tmp_path: Path) -> None:
    async with at_data() as opened:
        await opened.type(write(tmp_path / "blank.jsonl", ["", "", ""]))
        await opened.until(lambda: "There are no rows in this file" in opened.shown)
        assert "press m" not in opened.shown


async def test_the_form_shows_the_columns_as_they_are_mapped(table: Path) -> None:
    async with at_data() as opened:
        opened.step.source.choose(
            DatasetSpec(path=str(table), format="columns", columns="assistant=solution,user=body")
        )
        await opened.until(lambda: "row 1 of 90" in opened.shown)
        await opened.until(lambda: opened.screen.query_one(FindingList).has_focus)
        await opened.press("m")
        await opened.until(lambda: isinstance(opened.app.screen, ColumnsModal))
        await opened.until(lambda: "assistant  It is on its way, number 0." in opened.shown)


def test_a_mapping_is_read_back_from_its_text() -> None:
    parts = {"title": "user", "body": "user", "solution": "assistant"}
    assert mapped_parts(mapping_text(parts)) == parts


async def test_from_the_tree_one_comes_to_the_folder_above_and_back_to_the_end_of_the_line(good: Path) -> None:
    inner = good.parent / "inner"
    inner.mkdir()
    async with at_data() as opened:
        opened.step.source.line.value = f"{inner}/"
        await opened.press("ctrl+t")
        await opened.until(lambda: opened.screen.query(DataTree))
        assert {"Open", "Up", "Take folder"} <= {*opened.keys}
        await opened.press("backspace")
        await opened.until(lambda: "good.jsonl" in opened.shown)
        tree = opened.screen.query_one(DataTree)
        line = next(n.line for n in tree.root.children if n.data is not None and n.data.path.name == "good.jsonl")
        tree.cursor_line = line
        await opened.press("enter")
        await opened.until(lambda: opened.step.source.line.value == str(good))
        assert opened.step.source.line.cursor_position == len(str(good))


async def test_a_line_of_recent_data_is_not_cut_where_there_is_room(good: Path) -> None:
    remember(DatasetSpec(path=str(good)))
    async with at_data((240, 40)) as opened:
        opened.step.source.line.value = ""
        await opened.until(lambda: opened.screen.query_one(RecentList).display)
        row = next(line for line in opened.shown.splitlines() if "good.jsonl" in line)
        assert not row.rstrip().endswith("…")


@pytest.mark.parametrize("width", [40, 60, 72, 112])
def test_progress_stays_on_its_line(width: int) -> None:
    pace = Pace()
    pace.line("counting tokens", 0, 701_200, "rows")
    pace._began_t -= 5
    line = pace.line("counting tokens", 20_469, 701_200, "rows", width)
    assert line.cell_length <= max(width, 50)
    assert "rows/s" in line.plain
    assert "left" in line.plain


def test_a_share_that_is_not_all_is_not_told_as_all() -> None:
    before = {"tokens": 1, "trained": 1, "longest": 128, "median": 90, "p95": 100}
    after = {"truncated": 0, "lost": 0, "dropped": 0}
    stats = TokenStats(tokenizer="t", rows=1_000, of_rows=1_000, max_length=64, lengths=(2, 998), **before, **after)
    assert "100 %" not in describe_cut(stats, 64).plain


def test_opening_the_screen_does_not_load_what_writes_a_copy() -> None:
    code = "import sys, tui.screens.setup; print('engine.datasets.fix' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
