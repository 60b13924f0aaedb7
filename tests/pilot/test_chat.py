"""The chat screen's behaviour. The session is a fake here; the real one is asked in the end-to-end tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import recorded
from driving import text, until
from textual.pilot import Pilot
from textual.widgets import Markdown

from engine import chat, runs
from engine.errors import RunError
from engine.paths import RunDir
from engine.runs import load_plan
from tui import messages
from tui.app import FinetuiApp
from tui.modals.help import HelpModal
from tui.screens import chat as chat_screen
from tui.screens.chat import ChatScreen
from tui.screens.home import HomeScreen


class Session:
    """Stands for the child process: says what the test wants it to say, until it is cancelled."""

    note = ""

    made: ClassVar[list[Session]] = []
    answer: ClassVar[Sequence[str]] = ("I am ", "sorry.")
    fault: ClassVar[RunError | None] = None
    hold: ClassVar[threading.Event | None] = None

    def __init__(self, model: Path, context_length: int = 4096) -> None:
        self.model, self.context_length = model, context_length
        self.note = ""
        self.asked: list[list[Any]] = []
        self.cancelled, self.closed = threading.Event(), threading.Event()
        Session.made.append(self)

    def start(self) -> None:
        """Loads at once."""

    def ask(
        self, messages: Sequence[Any], max_tokens: int = 512, temperature: float = 0.0
    ) -> Iterator[chat.Delta | chat.Done]:
        self.asked.append(list(messages))
        for piece in self.answer:
            yield chat.Delta(piece)
        if self.fault is not None:
            raise self.fault
        if self.hold is not None:
            self.cancelled.wait(10)
            yield chat.Done(7, 0.1, "cancelled", 5)
        else:
            yield chat.Done(48, 0.8, "stop", 64)

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.closed.set()


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    monkeypatch.setattr(chat, "ChatSession", Session)
    monkeypatch.setattr(Session, "made", [])
    return Session


async def opened(app: FinetuiApp, pilot: Pilot[None], run: RunDir) -> ChatScreen:
    app.post_message(messages.Open("chat", run))
    await until(pilot, lambda: isinstance(app.screen, ChatScreen) and "loading" not in text(app))
    assert isinstance(app.screen, ChatScreen)
    return app.screen


async def test_enter_on_nothing_asks_the_presets_question(session: type[Session]) -> None:
    run = recorded.certified()
    suggested = load_plan(run).preset.question
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        assert suggested.split()[-1] in text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "I am sorry." in text(app) and "60 tok/s" in text(app))
    ((question,),) = session.made[0].asked
    assert question["role"] == "user"
    assert question["content"] == suggested


async def test_the_title_shows_speed_and_context(session: type[Session]) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, recorded.certified())
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "context 112 / 512" in text(app))


async def test_the_whole_conversation_is_sent(session: type[Session]) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, recorded.certified())
        for question in ("one", "two"):
            await pilot.press(*question, "enter")
            await until(pilot, lambda: "tokens in" in text(app) and "answering" not in text(app))
        await until(pilot, lambda: len(session.made[0].asked) == 2)
    said = [(message["role"], message["content"]) for message in session.made[0].asked[1]]
    assert said == [("user", "one"), ("assistant", "I am sorry."), ("user", "two")]


@pytest.mark.parametrize("key", ["escape", "ctrl+c"])
async def test_an_answer_can_be_stopped(session: type[Session], monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(Session, "hold", threading.Event())
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, recorded.certified())
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "answering" in text(app) and "I am sorry." in text(app))
        await pilot.press(key)
        await until(pilot, lambda: "stopped" in text(app))
        assert app.screen is screen
        assert session.made[0].cancelled.is_set()


async def test_escape_when_idle_leaves_and_ends_the_child(session: type[Session]) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, recorded.certified())
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is not screen)
        await until(pilot, lambda: session.made[0].closed.is_set())


async def test_an_escape_that_comes_as_the_answer_ends_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_screen, "GRACE_S", 3600.0)
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, recorded.certified())
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "tokens in" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "esc again leaves" in text(app))
        assert app.screen is screen
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is not screen)


async def test_long_after_the_answer_one_escape_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_screen, "GRACE_S", 0.0)
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, recorded.certified())
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "tokens in" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is not screen)


async def test_a_conversation_that_was_left_goes_on(session: type[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_screen, "GRACE_S", 0.0)
    run = recorded.certified()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await pilot.press(*"first", "enter")
        await until(pilot, lambda: "tokens in" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        await opened(app, pilot, RunDir(run.path))
        await until(pilot, lambda: "first" in text(app) and "I am sorry." in text(app) and "tokens in" in text(app))
        await pilot.press(*"second", "enter")
        await until(pilot, lambda: len(session.made) == 2 and session.made[1].asked)
    said = [message["content"] for message in session.made[1].asked[0]]
    assert said == ["first", "I am sorry.", "second"]


async def test_an_answer_that_was_left_half_way_is_kept_as_far_as_it_came(
    session: type[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "hold", threading.Event())
    run = recorded.certified()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "I am sorry." in text(app))
        app.post_message(messages.Open("home"))
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        await opened(app, pilot, run)
        await until(pilot, lambda: "I am sorry." in text(app))


async def test_a_question_that_was_not_asked_yet_is_kept() -> None:
    run = recorded.certified()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await pilot.press(*"half a", "escape")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        await opened(app, pilot, run)
        await until(pilot, lambda: "half a" in text(app))


async def test_a_new_conversation_is_not_haunted_by_the_old_one() -> None:
    run = recorded.certified()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await pilot.press(*"first", "enter")
        await until(pilot, lambda: "tokens in" in text(app))
        await pilot.press("ctrl+n", "escape")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        await opened(app, pilot, run)
        assert "first" not in text(app)


async def test_a_run_deleted_under_the_chat_is_told_and_what_was_said_stays() -> None:
    run = recorded.certified()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, run)
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "tokens in" in text(app))
        runs.delete(run)
        await until(pilot, lambda: "was deleted" in text(app))
        assert "I am sorry." in text(app)
        assert not screen.check_action("save", ())
        await until(pilot, lambda: "Save" not in text(app))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: app.screen is not screen)


async def test_where_one_types_the_key_for_help_is_f1() -> None:
    app = FinetuiApp()
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: "? Help" in text(app))
        await opened(app, pilot, recorded.certified())
        await until(pilot, lambda: "F1 Help" in text(app) and "? Help" not in text(app))
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpModal))


async def test_again_replaces_the_last_answer(session: type[Session]) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        screen = await opened(app, pilot, recorded.certified())
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "tokens in" in text(app))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(session.made[0].asked) == 2 and not screen.answering)
        assert session.made[0].asked[1] == session.made[0].asked[0]
        assert len(screen.query(Markdown)) == 1


async def test_another_file_can_be_chosen(session: type[Session]) -> None:
    run = recorded.certified()
    run.gguf("bf16").write_bytes(b"GGUF" * 9)
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "model.bf16.gguf" in text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: len(session.made) == 2)
    assert [made.model.name for made in session.made] == ["model.Q4_K_M.gguf", "model.bf16.gguf"]
    assert session.made[0].closed.is_set()


async def test_the_system_prompt_goes_first(session: type[Session]) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, recorded.certified())
        await pilot.press("ctrl+t")
        await until(pilot, lambda: "System prompt" in text(app))
        await pilot.press(*"brief", "enter")
        await until(pilot, lambda: "system prompt" in text(app))
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: session.made[0].asked)
    assert session.made[0].asked[0][0] == {"role": "system", "content": "brief"}


async def test_a_saved_conversation_holds_both_sides(session: type[Session]) -> None:
    run = recorded.certified()
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, run)
        await pilot.press(*"hello", "enter")
        await until(pilot, lambda: "tokens in" in text(app))
        await pilot.press("ctrl+s")
        await until(pilot, lambda: list(run.path.glob("chat-*.md")))
    (saved,) = run.path.glob("chat-*.md")
    assert "hello" in saved.read_text()
    assert "I am sorry." in saved.read_text()


async def test_without_a_file_it_leads_to_the_export(session: type[Session]) -> None:
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, recorded.trained())
        assert "export first" in text(app)
        await pilot.press("e")
        await until(pilot, lambda: type(app.screen).__name__ == "ExportScreen")
    assert session.made == []


async def test_a_dead_child_is_told_and_started_again(session: type[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "fault", RunError("The model's process died", "SIGSEGV [/x]", ("Smaller file.",)))
    app = FinetuiApp()
    async with app.run_test() as pilot:
        await opened(app, pilot, recorded.certified())
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "process died" in text(app) and "SIGSEGV [/x]" in text(app))
        monkeypatch.setattr(Session, "fault", None)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(session.made) == 2 and "tokens in" in text(app))


async def test_a_hostile_answer_is_harmless(session: type[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "answer", (recorded.HOSTILE[:9], recorded.HOSTILE[9:], "\n\n[go](http://x.y)"))
    app = FinetuiApp()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, recorded.certified())
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "tokens in" in text(app) and "[@click=app.bell]" in text(app))
        assert not set("\x1b\x07\x9b\u202e") & set(text(app))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_long_answer_is_followed_and_fits(
    session: type[Session], monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(Session, "answer", [f"Line {at} of the answer.\n\n" for at in range(60)] + ["The end."])
    app = FinetuiApp()
    async with app.run_test(size=size) as pilot:
        screen = await opened(app, pilot, recorded.certified())
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "The end." in text(app))
        assert [widget for widget in screen.walk_children() if widget.show_horizontal_scrollbar] == []
        assert len(screen.query("FooterKey")) <= 7
