"""The app itself: first paint, ways in and out, help, the palette, signals, and nothing hostile to the terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import recorded
from driving import text, until
from textual import events

from engine.errors import UsageError
from tui import messages, theme
from tui.app import FinetuiApp
from tui.modals.ask import AskModal
from tui.modals.error import ErrorModal
from tui.modals.help import HelpModal
from tui.screens.home import HomeScreen
from tui.screens.setup import SetupScreen
from tui.screens.train import TrainScreen
from tui.widgets.clean_input import CleanInput

HEAVY = "'torch', 'transformers', 'numpy', 'httpx', 'pynvml', 'psutil', 'pydantic'"


@contextlib.contextmanager
def in_terminal(*code: str, size: tuple[int, int] = (120, 40)) -> Iterator[tuple[int, int]]:
    """Python in a terminal of its own: (pid, the terminal's other end)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, *code])
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    try:
        yield pid, fd
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it ended before
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # the test closed it
            os.close(fd)


def read_until(fd: int, marker: bytes, seconds: float = 15) -> bytes:
    """What the terminal was sent, up to the marker (or its end)."""
    seen, end = b"", time.monotonic() + seconds
    while marker not in seen and time.monotonic() < end:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                chunk = os.read(fd, 65_536)
            except OSError:  # the other side is closed
                return seen
            seen += chunk
    return seen


def ended(pid: int, seconds: float = 5) -> int | None:
    """The wait status of a process that ends in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    return None


def test_nothing_heavy_is_imported_before_the_first_paint() -> None:
    code = f"import sys, tui.app, tui.screens.home; print([n for n in ({HEAVY}) if n in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_without_a_terminal_it_says_so_and_ends_with_2() -> None:
    told = subprocess.run([sys.executable, "-m", "tui"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert told.returncode == 2
    assert "ssh -t" in told.stderr
    assert told.stdout == ""


def test_sigterm_gives_the_terminal_back() -> None:
    with in_terminal("-m", "tui") as (pid, fd):
        read_until(fd, b"No runs yet")
        os.kill(pid, signal.SIGTERM)
        left = read_until(fd, b"\x1b[?1049l")
        assert b"\x1b[?1049l" in left, "the alternate screen is left"
        assert b"\x1b[?1000l" in left, "the mouse is given back"
        status = ended(pid)
        assert status is not None
        assert os.waitstatus_to_exitcode(status) == 143


def test_a_closed_terminal_ends_the_app() -> None:
    with in_terminal("-m", "tui") as (pid, fd):
        read_until(fd, b"No runs yet")
        os.close(fd)
        assert ended(pid, 2) is not None


def test_a_closed_terminal_ends_the_app_that_cannot_be_hung_up() -> None:
    code = "import os,signal,tui.app as a; s=signal.signal; signal.signal=lambda n,h: None if n==1 else s(n,h)\n"
    code += "s(1, signal.SIG_IGN); a.main()"
    with in_terminal("-c", code) as (pid, fd):
        read_until(fd, b"No runs yet")
        os.close(fd)
        assert ended(pid, 4) is not None


def test_a_defect_is_told_in_a_sentence_with_the_terminal_given_back(own_home: Path) -> None:
    code = "import sys, tui.app as a\nasync def back(self): secret = 'local value'; raise RuntimeError('it [broke]')\n"
    code += "a.FinetuiApp.action_help = back\nsys.exit(a.main())"
    with in_terminal("-c", code) as (pid, fd):
        read_until(fd, b"No runs yet")
        os.write(fd, b"?")
        sent = read_until(fd, b"report it")
        sent += read_until(fd, b"never sent", 0.5)
        status = ended(pid)
    after = sent[sent.index(b"\x1b[?1049l") :]
    assert b"RuntimeError: it [broke]" in after
    assert b"crash.log" in after.replace(b"\r\n", b"")
    assert b"local value" not in sent
    assert b"Traceback" not in sent
    assert status is not None
    assert os.waitstatus_to_exitcode(status) == 1
    assert "in back" in (own_home / "crash.log").read_text()


def test_a_defect_in_a_thread_is_kept_with_its_own_traceback(own_home: Path) -> None:
    code = "import sys, tui.app as a\ndef broken(): raise RuntimeError('in a thread')\n"
    code += "a.FinetuiApp.action_help = lambda self: self.run_worker(broken, thread=True)\nsys.exit(a.main())"
    with in_terminal("-c", code) as (_, fd):
        read_until(fd, b"No runs yet")
        os.write(fd, b"?")
        assert b"RuntimeError: in a thread" in read_until(fd, b"report it")
    assert "in broken" in (own_home / "crash.log").read_text()


def test_hostile_bytes_never_reach_the_terminal() -> None:
    """On home, on the training screen and in its log."""
    recorded.hostile()
    with in_terminal("-m", "tui") as (_, fd):
        sent = read_until(fd, b"hostile")
        time.sleep(0.3)
        os.write(fd, b"\r")
        sent += read_until(fd, b"worker's log")
        os.write(fd, b"l")
        sent += read_until(fd, b"never sent", 1.5)
    sent = re.sub(rb"\x1b]22;[a-z]+\x07", b"", sent)  # Textual sets the pointer's shape
    assert b"[@click=app.bell]" in sent, "the text itself is shown"
    for harm in (b"\x1b]52", b"\x07", b"\x1b[2J", "\x9b".encode(), "\u202e".encode()):
        assert harm not in sent


@pytest.mark.parametrize("ours", [theme.DARK, theme.LIGHT])
async def test_each_theme_of_ours_shows_home(ours: str) -> None:
    recorded.certified()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        app.theme = ours
        await until(pilot, lambda: "certified" in app.export_screenshot())


async def test_a_theme_that_is_not_ours_has_our_colours() -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        app.theme = "nord"
        await pilot.pause()
        assert app.get_css_variables()["tuned"]


async def test_help_lists_the_keys_of_the_screen_it_was_asked_on() -> None:
    app = FinetuiApp()
    async with app.run_test(size=(100, 40)) as pilot:
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpModal)
        shown = app.export_screenshot()
        assert "a&#160;new&#160;run" in shown
        await pilot.press("escape")
        assert isinstance(app.screen, HomeScreen)


async def test_the_palette_offers_the_verbs_of_the_screen() -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await pilot.pause()
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert {"New", "Runs", "Theme: light", "Quit"} <= set(titles)


async def test_a_problem_is_shown_with_what_to_do() -> None:
    app = FinetuiApp()
    async with app.run_test(size=(100, 30)) as pilot:
        app.screen.post_message(messages.Problem(UsageError("No [such] thing", "detail", ("do [this]",))))
        await until(pilot, lambda: isinstance(app.screen, ErrorModal))
        await pilot.pause()
        assert "[this]" in app.export_screenshot().replace("&#160;", " ")


async def test_a_screen_that_is_open_is_gone_back_to() -> None:
    run = recorded.trained()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        app.post_message(messages.Open("train", run))
        await until(pilot, lambda: isinstance(app.screen, TrainScreen))
        depth = len(app.screen_stack)
        app.screen.post_message(messages.Open("train", run))
        await pilot.pause()
        assert len(app.screen_stack) == depth
        app.screen.post_message(messages.Open("home"))
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        assert len(app.screen_stack) == 1


async def test_a_long_hint_wraps_on_a_narrow_terminal() -> None:
    hint = "Name a preset, or the folder of a Hugging Face model with its config, its tokenizer and its last-word."
    app = FinetuiApp()
    async with app.run_test(size=(80, 24)) as pilot:
        app.post_message(messages.Problem(UsageError("There is no such model", "", (hint,))))
        await until(pilot, lambda: isinstance(app.screen, ErrorModal))
        await until(pilot, lambda: "last-word." in text(app))


async def test_few_columns_show_keys_and_no_scrollbar_over_them() -> None:
    app = FinetuiApp()
    async with app.run_test(size=(24, 10)) as pilot:
        app.post_message(messages.Open("setup"))
        await until(pilot, lambda: isinstance(app.screen, SetupScreen))
        await until(pilot, lambda: "Choose" in text(app))


async def test_every_pasted_line_is_kept() -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await app.push_screen(AskModal("What did the customer write?"))
        field = app.screen.query_one(CleanInput)
        field.post_message(events.Paste("Hello,\nmy machine leaks.\nRegards"))
        await until(pilot, lambda: field.value == "Hello, my machine leaks. Regards")
