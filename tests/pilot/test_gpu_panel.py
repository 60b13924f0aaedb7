"""The GPU on the screens: every kind of machine, in words and figures, wide and narrow."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import nvml
import pytest
import recorded
from driving import text, until
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from engine import gpu
from engine.events import Gpu
from engine.gpu import GpuProcess, GpuReading, GpuStatus, Reader
from engine.paths import RunDir
from engine.plan import GpuChoice
from engine.units import GIB
from engine.vram import Budget, Part
from tui import messages
from tui.app import FinetuiApp
from tui.feeds import _ours
from tui.screens.train import TrainScreen
from tui.widgets.gpu_history import WINDOW_S, History
from tui.widgets.gpu_lines import gpu_line
from tui.widgets.gpu_panel import GpuPanel

SIZES = [(80, 24), (120, 40)]
UUID = "GPU-1b9c2f6e-6f0e-4f6a-9a53-0e6f5f1c2d3e"
OURS = frozenset({4711})


def told(name: str, monkeypatch: pytest.MonkeyPatch, moment: int = 0) -> GpuStatus:
    """What one reader has to say at that moment of a recorded machine."""
    machine = nvml.machine(name, monkeypatch)
    reader = Reader(machine, retry_s=0)
    status = reader.read()
    for _ in range(moment):
        machine.pass_on()
        status = reader.read()
    return status


def on_a_gpu(make: Callable[[], RunDir] = recorded.training) -> RunDir:
    """A run that was planned for the recorded workstation's card."""
    run = make()
    card = GpuChoice(uuid=UUID, name="NVIDIA GeForce RTX 4090", total_bytes=24 * GIB, free_bytes=23 * GIB)
    needs = Budget(parts=(Part(name="all", size_bytes=9 * GIB),), available_bytes=22 * GIB)
    plan = recorded.a_plan(run.name).model_copy(update={"device": "cuda", "gpu": card, "vram": needs})
    run.plan.write_text(plan.model_dump_json())
    return run


@asynccontextmanager
async def shown(
    size: tuple[int, int], status: GpuStatus, monkeypatch: pytest.MonkeyPatch, run: RunDir | None = None
) -> AsyncIterator[Pilot[None]]:
    """The training screen with that reading."""
    monkeypatch.setattr(gpu, "read", lambda: status)
    monkeypatch.setattr("tui.feeds._ours", lambda status, worker: OURS)
    run = run or on_a_gpu()
    with recorded.held(run):
        app = FinetuiApp()
        async with app.run_test(size=size) as pilot:
            app.post_message(messages.Open("train", run))
            await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.status is not None)
            panel = app.screen.query_one("#gpu", GpuPanel)
            await until(pilot, lambda: panel.status is not None)
            yield pilot


async def test_beside_the_chart_there_is_all_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shown((120, 40), told("workstation", monkeypatch), monkeypatch) as pilot:
        for words in ("RTX 4090", "98 %", "8.7 / 24.0 GiB", "71 °C", "402 / 450 W", "fan 64 %", "SM 2.52 GHz"):
            await until(pilot, lambda words=words: words in text(pilot.app))
        for words in ("holds 8.2 of 9.0 GiB planned ✓", "● 4711", "this run", "Xorg", "326 MiB"):
            await until(pilot, lambda words=words: words in text(pilot.app))


async def test_at_80_columns_the_figures_stay_and_the_rest_is_behind_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shown((80, 24), told("workstation", monkeypatch), monkeypatch) as pilot:
        for words in ("RTX 4090", "98 %", "VRAM 8.7 / 24.0 GiB", "planned 9.0 GiB", "71 °C   402 / 450 W   fan 64 %"):
            await until(pilot, lambda words=words: words in text(pilot.app))
        assert "Xorg" not in text(pilot.app)
        await pilot.press("g")
        for words in ("● 4711    this run", "Xorg", "SM 2.52 GHz", "last 5 min", "holds 8.2 of 9.0 GiB planned ✓"):
            await until(pilot, lambda words=words: words in text(pilot.app))
        assert "findings" not in text(pilot.app)
        await pilot.press("g")
        await until(pilot, lambda: "findings" in text(pilot.app) and "Xorg" not in text(pilot.app))


async def test_the_log_and_the_gpu_take_turns_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shown((80, 24), told("workstation", monkeypatch), monkeypatch) as pilot:
        screen = pilot.app.screen
        for key, open_ in (("g", "#gpu-all"), ("l", "#log"), ("g", "#gpu-all"), ("g", "#notes")):
            await pilot.press(key)
            places = ("#gpu-all", "#log", "#notes")
            assert [place for place in places if screen.query_one(place).display] == [open_]


MACHINES = [
    ("laptop", 0, ["RTX 4070 Laptop GPU", "12 W", "fan n/a", "usual on laptops"]),
    ("mig", 0, ["A100-SXM4-80GB MIG 3g.40gb", "8.5 / 39.5 GiB", "A MIG slice"]),
    ("mig-no-slice", 0, ["✗", "has no slice"]),
    (
        "wsl2",
        0,
        ["RTX 3090", "load            n/a", "who holds its memory: n/a", "WSL2:"],
    ),
    ("unified-memory", 0, ["GB10", "VRAM            n/a", "It shares the machine's memory"]),
    ("no-permission-fields", 0, ["power           n/a", "who holds its memory: n/a", "98 %"]),
    ("no-driver", 0, ["There is no NVIDIA driver"]),
    ("driver-mismatch", 0, ["! The NVIDIA driver was updated", "reboot"]),
    ("no-devices", 0, ["it sees no GPU"]),
    ("gpu-lost", 1, ["✗ NVIDIA GeForce RTX 4090 is lost", "Reboot"]),
    ("two-gpus-one-lost", 1, ["RTX 4090 is lost"]),
    ("two-gpus", 0, ["RTX 4090", "8.7 / 24.0 GiB"]),
]


@pytest.mark.parametrize(("name", "moment", "words"), MACHINES, ids=[machine[0] for machine in MACHINES])
async def test_each_machine_has_its_words(
    monkeypatch: pytest.MonkeyPatch, name: str, moment: int, words: list[str]
) -> None:
    """In the column of a wide screen, and behind the key of a narrow one; sentences may be broken into lines."""
    status = told(name, monkeypatch, moment)
    app = Bench(status)
    for size in ((39, 16), (78, 10)):
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            joined = " ".join(text(app).replace("│", " ").split())
            assert [word for word in words if " ".join(word.split()) not in joined] == []
        app = Bench(status)


class Bench(App[None]):
    """The panel alone, as large as the screen."""

    CSS = "GpuPanel { height: 1fr; }"

    def __init__(self, status: GpuStatus) -> None:
        super().__init__()
        self._status = status
        for name in ("tuned", "quiet", "rule"):
            self.theme_variables[name] = "#888888"

    def get_css_variables(self) -> dict[str, str]:
        return {**super().get_css_variables(), "tuned": "#888", "quiet": "#888", "rule": "#888"}

    def compose(self) -> ComposeResult:
        yield GpuPanel(id="gpu")

    def on_mount(self) -> None:
        panel = self.query_one(GpuPanel)
        panel.uuid, panel.ours = UUID if len(self._status.gpus) > 1 or self._status.unusable else "", OURS
        panel.status = self._status


@pytest.mark.parametrize("name", nvml.names())
async def test_no_figure_is_zero_that_is_not_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for moment in range(3):
        status = told(name, monkeypatch, moment)
        for size in ((39, 16), (78, 10), (39, 3), (12, 3), (1, 1)):
            async with (app := Bench(status)).run_test(size=size):
                seen = text(app)
        told_zero = any(gpu.fan == 0 or gpu.utilization == 0 for gpu in status.gpus)
        assert told_zero or " 0 " not in seen


@pytest.mark.parametrize("size", SIZES)
async def test_a_driver_that_hangs_is_told_above_the_old_figures(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    words = "The NVIDIA driver has not answered for 12 s. If it stays so: reboot."
    status = told("workstation", monkeypatch)
    status = status.model_copy(update={"silent_s": 12.0, "problem": words, "broken": True})
    async with shown(size, status, monkeypatch) as pilot:
        said = "! no answer for 12 s" if size == (80, 24) else "! The NVIDIA driver has not answered"
        await until(pilot, lambda: said in text(pilot.app))
        assert "98 %" in text(pilot.app)


async def test_the_app_stays_quick_while_a_driver_call_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "read", lambda: time.sleep(30))
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        app.post_message(messages.Open("train", recorded.trained()))
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        await until(pilot, lambda: "asking the NVIDIA driver" in text(app), seconds=5)
        began = time.monotonic()
        await pilot.press("q")
        await until(pilot, lambda: not isinstance(app.screen, TrainScreen))
        assert time.monotonic() - began < 5


async def test_a_run_planned_for_another_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shown((120, 40), told("laptop", monkeypatch), monkeypatch) as pilot:
        await until(pilot, lambda: "planned for another GPU" in text(pilot.app))


async def test_above_the_plan_is_said_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    run = on_a_gpu()
    plan = run.plan.read_text().replace(str(9 * GIB), str(5 * GIB))
    run.plan.write_text(plan)
    async with shown((120, 40), told("workstation", monkeypatch), monkeypatch, run) as pilot:
        await until(pilot, lambda: "holds 8.2 of 5.0 GiB planned ! above" in text(pilot.app))


# the lines


def test_the_line_of_the_home_screen() -> None:
    card = recorded.card()
    assert gpu_line(card).plain == "RTX 4090 · 15.0 of 24.0 GiB free · 71 °C · 402 / 450 W · driver 580.126"
    assert gpu_line(None).plain == ""
    assert gpu_line(GpuStatus(problem="none")).plain.startswith("no GPU")
    assert gpu_line(GpuStatus(problem="Reboot.", broken=True)).plain == "! Reboot."
    lost = card.model_copy(update={"unusable": (GpuReading(problem="lost"),)})
    assert "! another GPU is not usable" in gpu_line(lost).plain


def test_a_history_shows_what_was_told_before_anybody_looked() -> None:
    history, now = History(), 10_000.0
    history.add(now, GpuReading(utilization=1.0))
    assert history.line("load", now, 10).strip() != ""
    short = history.line("load", now, 10)
    history.add_past([Gpu(t=now - age, utilization=0.5) for age in range(290, 0, -2)])
    assert len(history.line("load", now, 10).strip()) == 10 > len(short.strip())


def test_a_history_forgets_what_is_too_old() -> None:
    history = History()
    for t in range(2000):
        history.add(float(t), GpuReading(utilization=0.5, temperature_c=50))
    assert len(history._points) == WINDOW_S + 1


def test_where_nothing_was_told_the_line_is_broken() -> None:
    history, now = History(), 1000.0
    for t in [*range(700, 800), *range(900, 1001)]:
        history.add(float(t), GpuReading(utilization=0.5))
    line = history.line("load", now, 30)
    assert "⠀" not in line
    assert " " * 8 in line
    assert line[0] != " " != line[-1]
    assert history.line("power", now, 30).strip() == ""


async def test_the_line_of_another_gpu_is_not_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    past = [Gpu(t=time.time() - age, utilization=0.5) for age in range(290, 0, -2)]
    for uuid, begun in ((UUID, True), ("GPU-another", False)):
        app = Bench(told("workstation", monkeypatch))
        async with app.run_test(size=(39, 16)):
            panel = app.query_one(GpuPanel)
            panel._history, panel._begun = History(), False
            panel.uuid, panel.past = uuid, past
            assert (len(panel._history._points) > 100) is begun


async def test_a_run_that_was_planned_for_a_gpu_says_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shown((80, 24), told("no-driver", monkeypatch), monkeypatch) as pilot:
        await until(pilot, lambda: "! There is no NVIDIA driver" in text(pilot.app))


async def test_the_driver_is_never_asked_by_the_apps_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[threading.Thread] = []

    def read() -> GpuStatus:
        asked.append(threading.current_thread())
        return recorded.card()

    monkeypatch.setattr(gpu, "read", read)
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        for screen, words in (("home", "RTX 4090 · 15.0"), ("setup", "RTX 4090"), ("train", "last 5 min")):
            app.post_message(messages.Open(screen, recorded.trained() if screen == "train" else None))
            await until(pilot, lambda words=words: words in text(app))
    assert asked
    assert threading.main_thread() not in asked


def test_what_the_worker_started_is_the_runs_own() -> None:
    with recorded.held(recorded.create()) as worker:
        processes = tuple(GpuProcess(pid=pid) for pid in (worker, os.getpid(), 2**22 + 1))
        assert _ours(GpuStatus(gpus=(GpuReading(processes=processes),)), worker) == {worker}
