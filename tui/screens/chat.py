"""Chat: is it what I wanted?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.widgets import Footer, Input, Static

from engine import chat
from engine.errors import FinetuiError
from engine.paths import RunDir
from engine.plan import Plan
from engine.runs import load_plan
from engine.text import clean, clean_line
from engine.units import format_duration
from tui import messages
from tui.feeds import FolderFeed
from tui.modals.ask import Answer as Typed
from tui.modals.ask import AskModal
from tui.modals.choose import ChooseModal
from tui.modals.error import describe_error
from tui.run_screen import RunScreen
from tui.talk import Delta, Ended, Ready, Talk
from tui.widgets.clean_input import CleanInput
from tui.widgets.title_bar import TitleBar
from tui.widgets.transcript import Answer, Transcript, Turn

if TYPE_CHECKING:
    from engine.datasets.base import Message

CONTEXT_LENGTH = 4096
GRACE_S = 1.0
"""After an answer has ended, an Escape that was meant to stop it does not leave."""
REASONS = {"stop": "", "length": "cut at the longest answer", "cancelled": "stopped"}


@dataclass
class Conversation:
    """What is kept of a run's chat while the app runs."""

    turns: list[Turn]
    system: str
    model: Path | None
    done: chat.Done | None
    unsent: str
    """What was typed and not asked yet."""


class ChatScreen(RunScreen):
    """One conversation with one model file, which a child process holds."""

    CSS_PATH = "chat.tcss"
    WAYS_OUT = ("halt", "cancel")
    BINDINGS = [
        Binding("escape", "halt", "Stop / leave", key_display="esc", tooltip="stop the answer; when idle, leave"),
        Binding("ctrl+c", "cancel", "Stop", show=False, priority=True, tooltip="stop the answer"),
        Binding("ctrl+r,r", "again", "Again", key_display="^r", tooltip="answer the last question again"),
        Binding("ctrl+o,m", "choose", "Model", key_display="^o", tooltip="talk to another file of this run"),
        Binding("ctrl+t,p", "system", "System", key_display="^t", tooltip="the system prompt"),
        Binding("ctrl+n,n", "new", "New", key_display="^n", tooltip="begin a new conversation"),
        Binding("ctrl+s,S", "save", "Save", key_display="^s", tooltip="write the conversation to a file"),
        Binding("e", "export", "Export", tooltip="make the files to talk to"),
    ]

    def __init__(self, run: RunDir | Path) -> None:
        super().__init__()
        self.run = run if isinstance(run, RunDir) else None
        self.plan = _plan_of(self.run)
        self.models: Sequence[Path] = chat.models_of(run) if isinstance(run, RunDir) else [run]
        self.model: Path | None = self.models[0] if self.models else None
        self.turns: list[Turn] = []
        self.system = ""
        self._talk = Talk(self)
        self._loaded = False
        self._window = CONTEXT_LENGTH
        self._number = 0
        self._answer: Answer | None = None
        self._done: chat.Done | None = None
        self._waiting = self._typed = ""
        self._ended_t: float | None = None
        """When the newest answer ended, until an Escape was pressed after it."""
        self._feed = FolderFeed(self, self.run) if self.run is not None else None

    def compose(self) -> ComposeResult:
        """The conversation, a line on what happens, the line to type in."""
        yield TitleBar()
        yield Transcript(id="transcript")
        yield Static(id="chat-note")
        yield CleanInput(placeholder="ask …", id="question")
        yield Footer(show_command_palette=False)

    async def on_mount(self) -> None:
        """Load the model, or say how to get one."""
        await self._take_up()
        if self._feed is not None:
            self._feed.start()
        if self.model is None:
            field = self.query_one("#question", Input)
            field.disabled = True
            self.query_one(Transcript).focus()
        else:
            self.query_one("#question").focus()
            self._load()
        self._title()

    def on_unmount(self) -> None:
        """The child process goes with the screen; what was said stays."""
        if self._feed is not None:
            self._feed.stop()
        self._talk.close()
        kept = getattr(self.app, "conversations", None)
        if kept is not None and self.run is not None:
            unsent = self._waiting or self._typed
            kept[self.run] = Conversation(self.turns, self.system, self.model, self._done, unsent)

    @on(Input.Changed, "#question")
    def _changed(self, event: Input.Changed) -> None:
        self._typed = event.value

    async def _take_up(self) -> None:
        """Go on with what was said when this run's chat was left."""
        kept = getattr(self.app, "conversations", {}).get(self.run)
        if isinstance(kept, Conversation):
            self.turns, self.system, self._done = kept.turns, kept.system, kept.done
            self.model = kept.model if kept.model in self.models else self.model
            self.query_one("#question", Input).value = kept.unsent
        if not self.turns:
            await self._show_empty()
        await self.query_one(Transcript).restore(self.turns)

    @property
    def answering(self) -> bool:
        """True while an answer comes."""
        return self._answer is not None

    # ── the model ────────────────────────────────────────────────────────────────────────────────────────

    def _load(self) -> None:
        if self.model is None:
            return
        self._loaded = False
        window = self.plan.preset.context_length if self.plan else CONTEXT_LENGTH
        self._window = min(CONTEXT_LENGTH, window)
        self._talk.load(self.model, self._window)

    @on(Ready)
    async def _model_ready(self, event: Ready) -> None:
        if event.error is not None:
            error = event.error
            self._say(describe_error(error.title, error.detail, error.hints))
            return
        self._loaded = True
        self._say(Content(""))
        if event.note:
            self.app.notify(event.note, severity="warning", markup=False)
        self._title()
        if self._waiting:
            question, self._waiting = self._waiting, ""
            await self._ask(question)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────

    @on(Input.Submitted, "#question")
    async def _submitted(self, event: Input.Submitted) -> None:
        question = event.value.strip() or ("" if self.turns else self._suggested)
        if not question or self.answering:
            return
        event.input.value = ""
        if self._loaded:
            await self._ask(question)
        else:
            self._waiting = question
            self._say(Content.styled("The model is being loaded; your question comes next.", "$quiet"))

    @property
    def _suggested(self) -> str:
        return self.plan.preset.question if self.plan else ""

    async def _ask(self, question: str) -> None:
        self.turns.append(Turn("user", question))
        self.turns.append(Turn("assistant", ""))
        self._number += 1
        self._answer = await self.query_one(Transcript).ask(question)
        self._say(Content(""))
        self._title()
        self.refresh_bindings()
        self._talk.ask(self._number, self._history())

    def _history(self) -> list[Message]:
        said: list[Message] = [{"role": turn.role, "content": turn.text} for turn in self.turns[:-1]]
        return [{"role": "system", "content": self.system}, *said] if self.system else said

    @on(Delta)
    async def _piece(self, event: Delta) -> None:
        if event.number == self._number and self._answer is not None:
            self.turns[-1].text += clean(event.text)
            await self._answer.add(event.text)

    @on(Ended)
    async def _answered(self, event: Ended) -> None:
        if event.number != self._number or self._answer is None:
            return
        answer, self._answer = self._answer, None
        self._ended_t = time.monotonic()
        if event.error is not None:
            self._loaded = False
            error = event.error
            await answer.end(describe_error(error.title, error.detail, error.hints))
            self._say(Content.styled("^r starts the model again and asks once more.", "$warning"))
        else:
            self._done = event.done
            self.turns[-1].note = _figures(event.done) if event.done else ""
            await answer.end(Content.styled(self.turns[-1].note, "$quiet"))
        self._title()
        self.refresh_bindings()

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Ctrl+C is ours only while an answer comes; what needs a conversation needs one."""
        if not super().check_action(action, parameters):
            return False
        if action == "cancel":
            return self.answering
        if action in ("again", "save"):
            return bool(self.turns)
        if action == "choose":
            return len(self.models) > 1
        if action == "export":
            return self.run is not None and self.model is None
        if action in ("system", "new"):
            return self.model is not None
        return True

    def action_halt(self) -> None:
        """Stop the answer; with none, leave. One that comes as the answer ends was meant for the answer."""
        ended, self._ended_t = self._ended_t, None
        if self.answering:
            self.action_cancel()
        elif ended is not None and time.monotonic() - ended < GRACE_S:
            self._say(Content.styled("The answer has ended; esc again leaves.", "$warning"))
        else:
            self.app.call_later(self.app.run_action, "back")

    def action_cancel(self) -> None:
        """Stop the answer."""
        self._talk.cancel()

    async def action_again(self) -> None:
        """Answer the last question again."""
        if self.answering or not self.turns:
            return
        question = self.turns[-2].text
        del self.turns[-2:]
        await self.query_one(Transcript).drop_last()
        if self._loaded:
            await self._ask(question)
        else:
            self._waiting = question
            self._say(Content.styled("loading the model again …", "$quiet"))
            self._load()

    async def action_new(self) -> None:
        """Forget what was said."""
        if self.answering:
            self.action_cancel()
        self._number += 1
        self._answer = None
        self.turns.clear()
        self._done = self._ended_t = None
        await self._show_empty()
        self._title()
        self.refresh_bindings()

    def action_choose(self) -> None:
        """Another file of this run."""
        names = [clean_line(path.name) for path in self.models]
        self.app.push_screen(ChooseModal("Talk to which file?", names), self._chosen)

    def _chosen(self, index: int | None) -> None:
        if index is None or self.models[index] == self.model:
            return
        self.model = self.models[index]
        self._load()
        self.run_worker(self.action_new(), exclusive=True, group="new")

    def action_system(self) -> None:
        """Ask for the system prompt."""
        detail = "Sent before the conversation; a minus sign removes it."
        self.app.push_screen(AskModal("System prompt", detail, self.system), self._system_typed)

    def _system_typed(self, answer: Typed | None) -> None:
        if answer is not None:
            self.system = "" if answer.text == "-" else answer.text
            self._title()

    def action_save(self) -> None:
        """Write the conversation beside the run, as Markdown."""
        folder = self.run.path if self.run is not None else Path.cwd()
        path = folder / f"chat-{time.strftime('%Y%m%d-%H%M%S')}.md"
        try:
            path.write_text(_as_text(self.model, self.system, self.turns), encoding="utf-8")
        except OSError as error:
            problem = FinetuiError("The conversation cannot be saved", f"{path}: {error.strerror or error}")
            self.post_message(messages.Problem(problem))
            return
        self.app.notify(clean_line(str(path)), title="Saved", markup=False)

    def action_export(self) -> None:
        """Make the files to talk to."""
        if self.run is not None:
            self.post_message(messages.Open("export", self.run))

    # ── what is shown ────────────────────────────────────────────────────────────────────────────────────

    async def _show_empty(self) -> None:
        await self.query_one(Transcript).show_empty(_empty(self.model, self._suggested))

    def _say(self, words: Content) -> None:
        note = self.query_one("#chat-note", Static)
        note.update(words)
        note.display = bool(words.cell_length)

    def _title(self) -> None:
        bar = self.query_one(TitleBar)
        name = clean_line(self.plan.slug) if self.plan else "chat"
        model = clean_line(self.model.name).removeprefix("model.").removesuffix(".gguf") if self.model else ""
        system = " · system prompt" if self.system else ""
        bar.left = Content.assemble((name, "bold $tuned"), "  chat  ", (model + system, "$quiet"))
        bar.right = Content.styled(self._state(), "$quiet")

    def _state(self) -> str:
        if self.model is None:
            return ""
        if not self._loaded:
            return "loading the model …"
        if self.answering:
            return "answering … esc stops"
        used = self._done.prompt_tokens + self._done.tokens if self._done else 0
        speed = f"   {self._done.tokens / self._done.seconds:,.0f} tok/s" if self._done and self._done.seconds else ""
        return f"context {used:,} / {self._window:,}{speed}"


def _empty(model: Path | None, suggested: str) -> Content:
    if model is None:
        return Content.assemble(
            ("There is no model file to talk to yet.\n\n", "bold"),
            ("e ", "$primary"),
            "export first: merge, GGUF, certificate",
        )
    if suggested:
        return Content.assemble("Ask anything, or press ", ("⏎", "$primary"), " to ask:\n\n", suggested)
    return Content("Ask anything.")


def _as_text(model: Path | None, system: str, turns: Sequence[Turn]) -> str:
    """The conversation as Markdown."""
    name = clean_line(model.name) if model is not None else ""
    head = [f"# Chat with {name}"] + ([f"**system**\n\n{system}"] if system else [])
    said = [f"**{'you' if turn.role == 'user' else 'model'}**\n\n{turn.text}" for turn in turns]
    return "\n\n".join([*head, *said]) + "\n"


def _figures(done: chat.Done) -> str:
    """`61 tok/s · 48 tokens in 0.8 s`, and what was out of the ordinary."""
    speed = f"{done.tokens / done.seconds:,.0f} tok/s" if done.seconds > 0 else ""
    dropped = f"the oldest {done.dropped} messages no longer fit and were left out" if done.dropped else ""
    took = f"{done.tokens:,} tokens in {format_duration(done.seconds)}"
    return " · ".join(part for part in (speed, took, REASONS.get(done.reason, ""), dropped) if part)


def _plan_of(run: RunDir | None) -> Plan | None:
    if run is None:
        return None
    try:
        return load_plan(run)
    except FinetuiError:
        return None  # the files can be talked to without it
